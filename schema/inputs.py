"""What mutations take. What is absent has its default; ranges are checked in `resolvers/inputs.py`."""

import strawberry

from schema.enums import BusyPolicy, InputRole, ReasoningEffort

_MUTATION_ID = "Given back as it is."


@strawberry.input(description="Settings of a model call; what is absent is left to the next lower level.")
class ModelSettingsInput:
    temperature: float | None = strawberry.field(description="How freely the model chooses its words, from 0 to 2.")
    top_p: float | None = strawberry.field(description="The share of likely words the model chooses from, from 0 to 1.")
    max_output_tokens: int | None = strawberry.field(description="How many tokens the model may write in one step.")
    context_window: int | None = strawberry.field(description="How many tokens the model is shown at most.")
    reasoning_effort: ReasoningEffort | None = strawberry.field(description="How much the model should think.")
    parallel_tool_calls: bool | None = strawberry.field(description="Whether the model may call several tools in one step.")


@strawberry.input(description="A new memory block.")
class BlockInput:
    label: str = strawberry.field(description="What it is about: letters, digits, `_`, `-` and `.`, at most 64; unique within its agent.")
    value: str = strawberry.field(description="What it says.")
    description: str | None = strawberry.field(description="What it is for, as the model is told.")
    limit: int | None = strawberry.field(description="How many characters it may hold; absent: 5000.")
    read_only: bool | None = strawberry.field(description="Whether the model may not change it; absent: it may.")


@strawberry.input(description="A tool that an agent may use.")
class AgentToolInput:
    name: str = strawberry.field(description="The tool's name, one of `Query.tools`.")
    requires_approval: bool | None = strawberry.field(description="Whether somebody has to approve each call; absent: the tool's default.")


@strawberry.input(description="A new agent.")
class CreateAgentInput:
    name: str = strawberry.field(description="What it is called, at most 255 characters.")
    description: str | None = strawberry.field(description="What it is for.")
    instructions: str | None = strawberry.field(description="The system prompt, before memory blocks are added; absent: none.")
    model: str | None = strawberry.field(description="The handle of its model, one of `Query.models`; absent: the server's default.")
    model_settings: ModelSettingsInput | None = strawberry.field(description="Settings of its model calls.")
    blocks: list[BlockInput] | None = strawberry.field(description="Its memory.")
    tools: list[AgentToolInput] | None = strawberry.field(description="The tools it may use.")
    client_mutation_id: str | None = strawberry.field(description=_MUTATION_ID)


@strawberry.input(description="A new conversation.")
class CreateConversationInput:
    agent_id: strawberry.ID = strawberry.field(description="The agent that answers.")
    summary: str | None = strawberry.field(description="A short title or synopsis.")
    model: str | None = strawberry.field(description="The handle of a model to use instead of the agent's.")
    model_settings: ModelSettingsInput | None = strawberry.field(description="Settings that lie over the agent's.")
    idempotency_key: str | None = strawberry.field(
        description="Makes a retry safe: the same key with the same input gives the same conversation."
    )
    client_mutation_id: str | None = strawberry.field(description=_MUTATION_ID)


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
    sender: str | None = strawberry.field(description="Who says it, where several people talk.")


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
    wait_seconds: int | None = strawberry.field(
        description="0: answer at once. Otherwise answer when the run has ended, or after so many seconds, at most 600.", default=0
    )
    client_mutation_id: str | None = strawberry.field(description=_MUTATION_ID)
