"""Where an adapted model has its weights from, and its copies: these never copy the weights."""

from typing import TYPE_CHECKING, Any, Self

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError

if TYPE_CHECKING:
    from pydantic import BaseModel as _Fields
else:
    _Fields = object


class SharesWeights(_Fields):
    """For pydantic models with a field `llm` and a private `_origin`.

    However a copy is made, it has the same model. What is pickled says where the model was loaded
    from: there another process loads it, once, when it is first used.
    """

    _origin: Any

    @classmethod
    def from_model_id(cls, model_id: str, **options: Any) -> Self:
        """Load a model and adapt it.

        Args:
            model_id: A folder, a Hub id or the path of a GGUF file; or `demo`, `vision-demo` and
                `smollm2`, as on the command line.
            **options: Fields of this class, such as `step` and `temperature`; all others go to
                `SteerableHFLLM.from_pretrained`, such as `policy`, `revision`, `dtype` and
                `generation_defaults`.

        Raises:
            InvalidInputError: There is no such model, field or argument.
        """
        fields = {name: options.pop(name) for name in set(options) & set(cls.model_fields)}
        return cls(llm=SteerableHFLLM.named(model_id, **options), **fields)

    def __deepcopy__(self, _: Any = None) -> Self:
        """Return a copy that shares the weights, as every other copy does."""
        return self.model_copy()

    def __getstate__(self) -> dict[Any, Any]:
        """Return what is pickled: everything but the weights."""
        # Of a copy, since LlamaIndex deletes what it cannot pickle from the object in use.
        twin = self.model_copy()
        llm = twin.__dict__.pop("llm", None)
        if llm is not None:
            twin._origin = llm.origin
        twin._forget()
        return super(SharesWeights, twin).__getstate__()

    def _forget(self) -> None:
        """Drop what belongs to this process alone."""

    if not TYPE_CHECKING:  # else every misspelt attribute would have a type

        def __getattr__(self, name: str) -> Any:
            """Load the model again where a pickled one is used, or say why that cannot be."""
            if name != "llm":
                return super().__getattr__(name)
            if self._origin is None:
                raise InvalidInputError(
                    "this model was pickled, and its weights do not travel to another process; "
                    "only a model that was loaded by from_pretrained, demo, vision_demo or smollm2 "
                    "is loaded again: load it so, or make the model there"
                )
            self.__dict__["llm"] = self._origin.open()
            return self.__dict__["llm"]
