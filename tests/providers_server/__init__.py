"""Every provider's API in a fake that misbehaves on request; its journal tells the truth."""
