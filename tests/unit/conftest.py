"""What the unit tests share."""

from tests.desk_fixtures import desk, store_path, stores  # noqa: F401  (fixtures)
