"""What sending takes. Ranges are checked in `resolvers/inputs/sending.py`."""

import strawberry

from schema.enums import BusyPolicy, InputRole
from schema.inputs.settings import ModelSettingsInput
from schema.scalars import JSON


@strawberry.input(description="An image.")
class ImageInput:
    url: str = strawberry.field(description="Where the image is (http or https), or the image itself as a `data:` URL.")
    media_type: str | None = strawberry.field(description="Its media type, for example `image/png`.")


@strawberry.input(one_of=True, description="A piece of a message: exactly one of these.")
class ContentPartInput:
    text: str | None = strawberry.field(description="Text.")
    image: ImageInput | None = strawberry.field(description="An image.")


@strawberry.input(description="A message to send: either `text` or `content`, at most a million characters.")
class MessageInput:
    role: InputRole | None = strawberry.field(description="As whom it is sent.", default=InputRole.USER)
    text: str | None = strawberry.field(description="The message, if it is nothing but text.")
    content: list[ContentPartInput] | None = strawberry.field(description="The message, piece by piece.")
    client_message_id: str | None = strawberry.field(description="Your own name for it, given back with the message.")
    sender: str | None = strawberry.field(
        description="Who says it, where several people talk; the model is not told, so write it into the text if it should know."
    )


@strawberry.input(description="A tool that you run yourself: calls of it wait for your result.")
class ClientToolInput:
    name: str = strawberry.field(description="By which the model calls it: 1 to 64 letters, digits, `_` or `-`.")
    description: str = strawberry.field(description="What it does, as the model is told.")
    parameters: JSON = strawberry.field(description='The JSON schema of its arguments, with `"type": "object"`.')
    requires_approval: bool | None = strawberry.field(
        description="Whether somebody has to agree before you run it; its calls then wait as AWAITING_APPROVAL.", default=False
    )


@strawberry.input(description="Messages to send, and how they should be answered.")
class SendMessageInput:
    conversation_id: strawberry.ID = strawberry.field(description="Where to send them.")
    messages: list[MessageInput] = strawberry.field(description="From 1 to 100 messages, answered together.")
    idempotency_key: str | None = strawberry.field(
        description="Makes a retry safe: the same key with the same input gives the first run again, with another IDEMPOTENCY_CONFLICT."
    )
    group_id: strawberry.ID | None = strawberry.field(description="Groups this exchange; the run's messages inherit it.")
    when_busy: BusyPolicy | None = strawberry.field(description="What to do while an earlier run is not over.", default=BusyPolicy.ENQUEUE)
    max_steps: int | None = strawberry.field(description="How many steps the run may take, from 1 to 1000.", default=50)
    override_model: str | None = strawberry.field(description="The handle of a model for this request only.")
    override_model_settings: ModelSettingsInput | None = strawberry.field(description="Settings for this request only, over all others.")
    override_system: str | None = strawberry.field(description="A system prompt for this request only, taken as it is.")
    client_tools: list[ClientToolInput] | None = strawberry.field(
        description="Tools that you run yourself; for this request they take the place of server tools of the same name. At most 100."
    )
    wait_seconds: int | None = strawberry.field(
        description="0: answer at once. Otherwise answer when the run has ended, or after so many seconds, at most 600.", default=0
    )
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
