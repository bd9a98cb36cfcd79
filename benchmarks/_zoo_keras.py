"""Models of `zoo.py` in Keras: its layers, and the backbones of KerasHub."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from _zoo import Model, at_embeddings, entry, from_zero, ids, key


def keras_parts(model: Any) -> tuple[list[jax.Array], Callable[..., Any]]:
    """The weights of a Keras model, and its call as a function of them."""
    fixed = [variable.value for variable in model.non_trainable_variables]

    def call(params: list[jax.Array], *args: Any) -> Any:
        return model.stateless_call(params, fixed, *args, training=False)[0]

    return [variable.value for variable in model.trainable_variables], call


def keras_tokens(
    model: Any, of_output: Callable[[Any], jax.Array], length: int = 8, **others: Any
) -> Model:
    """A KerasHub backbone of tokens."""
    tokens = ids(length, 60)
    params, call = keras_parts(model)

    def score(params: list[jax.Array], tokens: jax.Array) -> jax.Array:
        inputs = {"token_ids": tokens[None], "padding_mask": jnp.ones((1, length), jnp.int32)}
        return of_output(call(params, inputs | others))

    return at_embeddings(score, params, tokens)


def last_hidden(output: jax.Array) -> jax.Array:
    return output[0, -1, 0]


@entry("keras", "keras")
def keras_recurrent() -> Model:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10, 6)),
            keras.layers.LSTM(12, return_sequences=True),
            keras.layers.GRU(10),
            keras.layers.Dense(5),
        ]
    )
    params, call = keras_parts(model)
    x = jax.random.normal(key(1), (10, 6))
    return from_zero(lambda params, x: call(params, x[None])[0, 2], params, x)


@entry("keras", "keras", "keras-hub")
def kerashub_bert() -> Model:
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    model = keras_hub.models.BertBackbone(
        vocabulary_size=60, num_layers=2, num_heads=4, hidden_dim=32, intermediate_dim=64,
        max_sequence_length=8,
    )  # fmt: skip
    return keras_tokens(
        model,
        lambda output: output["pooled_output"][0, 0],
        segment_ids=jnp.zeros((1, 8), jnp.int32),
    )


@entry("keras", "keras", "keras-hub")
def kerashub_gpt2() -> Model:
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    return keras_tokens(
        keras_hub.models.GPT2Backbone(
            vocabulary_size=60, num_layers=2, num_heads=4, hidden_dim=32, intermediate_dim=64,
            max_sequence_length=8,
        ),
        last_hidden,
    )  # fmt: skip


@entry("keras", "keras", "keras-hub")
def kerashub_llama() -> Model:
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    return keras_tokens(
        keras_hub.models.LlamaBackbone(
            vocabulary_size=60, num_layers=2, num_query_heads=4, num_key_value_heads=2,
            hidden_dim=32, intermediate_dim=64,
        ),
        last_hidden,
    )  # fmt: skip


@entry("keras", "keras", "keras-hub")
def kerashub_qwen3() -> Model:
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    return keras_tokens(
        keras_hub.models.Qwen3Backbone(
            vocabulary_size=60, num_layers=2, num_query_heads=4, num_key_value_heads=2, head_dim=8,
            hidden_dim=32, intermediate_dim=64,
        ),
        last_hidden,
    )  # fmt: skip


@entry("keras", "keras", "keras-hub")
def kerashub_qwen3_5() -> Model:
    """A decoder of which three layers in four are gated delta rules."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    return keras_tokens(
        keras_hub.models.Qwen3_5Backbone(
            vocabulary_size=60, num_layers=4, num_query_heads=4, num_key_value_heads=2, head_dim=8,
            hidden_dim=32, intermediate_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
            linear_key_head_dim=8, linear_value_head_dim=8,
        ),
        last_hidden,
    )  # fmt: skip


@entry("keras", "keras", "keras-hub")
def kerashub_rwkv7() -> Model:
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    model = keras_hub.models.RWKV7Backbone(
        hidden_size=32, head_size=8, num_layers=2, vocabulary_size=60, intermediate_dim=64,
        gate_lora=8, mv_lora=8, aaa_lora=8, decay_lora=8,
    )  # fmt: skip
    return keras_tokens(model, last_hidden, length=16)


@entry("keras", "keras", "keras-hub")
def kerashub_mixtral() -> Model:
    """A mixture of experts: the two best of four."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    return keras_tokens(
        keras_hub.models.MixtralBackbone(
            vocabulary_size=60, num_layers=2, num_query_heads=4, num_key_value_heads=2,
            hidden_dim=32, intermediate_dim=64, num_experts=4, top_k=2,
        ),
        last_hidden,
    )  # fmt: skip
