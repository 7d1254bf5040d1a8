"""The rules of CONTRIBUTING.md that a machine can check and no linter does."""
