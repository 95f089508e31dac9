"""What went wrong in a run: on the run itself, and as a message where it happened."""

import strawberry

from schema.enums import RunErrorType


@strawberry.type(description="Why a run failed.")
class RunError:
    type: RunErrorType = strawberry.field(description="What went wrong, for programs.")
    message: str = strawberry.field(description="What went wrong, for people.")
