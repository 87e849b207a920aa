"""Configuration of the LSTM language models.

Self-contained on purpose: this file travels beside the weights, so it imports nothing of musegen.
"""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class MusicLstmConfig(PreTrainedConfig):
    """What defines a `MusicLstmForCausalLM`.

    There is no `max_position_embeddings`: neither variant has positions, so generation has no length limit.

    Args:
        vocab_size: Number of tokens.
        hidden_size: Units of one LSTM layer, in each direction it reads.
        embedding_size: Width of a token's embedding; None means `hidden_size`.
        num_layers: LSTM layers on top of each other.
        dropout: Probability of zeroing a value between two layers, and the default of the next two.
        embedding_dropout: The same on the embeddings; None means `dropout`.
        output_dropout: The same on the last layer's output; None means `dropout`.
        recurrent_dropout: Probability of zeroing a hidden-to-hidden weight for one training step
            (DropConnect; Merity et al. 2017, arXiv:1708.02182).
        locked_dropout: Drop the same features at every time step of a sequence (Gal and Ghahramani 2016,
            arXiv:1512.05287) instead of drawing anew at each one.
        layer_norm: Normalise the embeddings and each layer's output (Ba et al. 2016, arXiv:1607.06450). Without
            it tied embeddings learn slowly: what an LSTM reads and puts out starts near 0, and so do the logits.
        tie_word_embeddings: Use the embeddings as the weights of the output layer (Press and Wolf 2017,
            arXiv:1608.05859), after a linear projection where the widths differ.
        bidirectional: Predict each next token with a bidirectional LSTM over the window of tokens that ends
            at the current one, instead of a forward LSTM over the whole past.
        window: Tokens in that window; unused where `bidirectional` is False.
        train_positions: Bidirectional only. While training, predict at this many randomly chosen positions of
            a block instead of at all of them: an unbiased and much cheaper estimate of the block's loss. None
            means all. Evaluation always predicts at all positions.
        initializer_range: Standard deviation of the initial embeddings and linear weights.
        use_cache: Return the state from which generation goes on, unless told otherwise in the call.
        bos_token_id: Id that begins a sequence.
        eos_token_id: Id, or ids, that end one.
        pad_token_id: Id that fills the shorter sequences of a batch.
    """

    model_type = "music_lstm"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_hidden_layers": "num_layers"}

    vocab_size: int = 512
    hidden_size: int = 512
    embedding_size: int | None = None
    num_layers: int = 2
    dropout: float | int = 0.1
    embedding_dropout: float | int | None = None
    output_dropout: float | int | None = None
    recurrent_dropout: float | int = 0.0
    locked_dropout: bool = False
    layer_norm: bool = True
    tie_word_embeddings: bool = True
    bidirectional: bool = False
    window: int = 100
    train_positions: int | None = None
    initializer_range: float = 0.05
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.embedding_dropout is None:
            self.embedding_dropout = self.dropout
        if self.output_dropout is None:
            self.output_dropout = self.dropout
        super().__post_init__(**kwargs)

    @property
    def output_size(self) -> int:
        """Width of the last layer's output: `hidden_size`, once for each direction read."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    def validate_sizes(self):
        """Refuse sizes that no network can have. `strict` calls every `validate_*` after the type checks."""
        for name in ("vocab_size", "hidden_size", "embedding_size", "num_layers", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")
        if self.train_positions is not None and self.train_positions < 1:
            raise ValueError(f"train_positions is {self.train_positions}, must be 1 or more, or null")
        if self.train_positions is not None and not self.bidirectional:
            raise ValueError("train_positions needs bidirectional=true")

    def validate_dropouts(self):
        """Refuse probabilities outside [0, 1)."""
        for name in ("dropout", "embedding_dropout", "output_dropout", "recurrent_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 0 and less than 1")


__all__ = ["MusicLstmConfig"]
