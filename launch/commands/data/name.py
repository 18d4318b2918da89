"""Names of datasets, as arguments."""

from data_pipeline.config import check_name
from launch.errors import UserError


def refuse_bad_name(name: str) -> None:
    """Raises UserError for a name that could reach outside of the store's datasets."""
    try:
        check_name(name, key="NAME")
    except ValueError as error:
        raise UserError(str(error)) from error
