"""BERT's encoder as an ONNX graph, written from the weights with NumPy and `onnx`, in int8.

Used by `minilm_build` only. Operators of the domain `com.microsoft` are ONNX Runtime's own:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from ragdock.adapters.embedders.minilm import DIM, MAX_TOKENS, MODEL_NAME
from ragdock.types import Vectors

__all__ = ["read_safetensors", "write_graphs"]

N_LAYERS: Final = 6
N_HEADS: Final = 12
LAYER_NORM_EPSILON: Final = 1e-12

OPSET: Final = 17
IR_VERSION: Final = 8


def read_safetensors(content: bytes) -> dict[str, Vectors]:
    """Float32 tensors by name. Format: u64 length, JSON header, raw little-endian bytes.

    Source: https://github.com/huggingface/safetensors#format
    """
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        raw = content[8 + size + begin : 8 + size + end]
        tensors[name] = np.frombuffer(raw, dtype="<f4").reshape(entry["shape"])
    return tensors


class _Graph:
    """Collects nodes and constants of one ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def fused(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One of ONNX Runtime's own operators."""
        return self.node(operator, inputs, output, domain="com.microsoft", **attributes)

    def model(self, output: str) -> Any:
        from onnx import TensorProto, helper

        ids, mask = (
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        )
        vectors = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", DIM])
        graph = helper.make_graph(self.nodes, MODEL_NAME, [ids, mask], [vectors], self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ragdock"
        )


def write_graphs(tensors: dict[str, Vectors], reference: Path, model: Path) -> None:
    """Write the fp32 graph to `reference` and the int8 graph to `model`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.save(_bert(tensors, int8_words=False), reference)
    plain = model.with_suffix(".plain.onnx")
    small = _bert(tensors, int8_words=True)
    # Says that the graph needs no pre-processing, which would else be logged as a warning.
    onnx.helper.set_model_props(small, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(small, plain)
    quantize_dynamic(
        plain,
        model,
        op_types_to_quantize=["Attention", "MatMul"],
        per_channel=True,
        # 7-bit weights: on CPUs without VNNI, pairs of 8-bit products saturate in 16 bits.
        # https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
        reduce_range=True,
        weight_type=QuantType.QInt8,
        # The pooling multiplies by the mask, which has no weights to quantise.
        nodes_to_exclude=["pool_sum"],
        # ONNX can't infer types through com.microsoft operators.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    quantised = onnx.load(model)
    del quantised.metadata_props[:]
    model.write_bytes(quantised.SerializeToString(deterministic=True))


def _bert(tensors: dict[str, Vectors], *, int8_words: bool) -> Any:
    """BERT's encoder, mean pooling and L2 norm: ids and mask (batch, tokens) to (batch, dim)."""
    graph = _Graph()
    hidden = _embeddings(graph, tensors, int8_words=int8_words)
    mask = graph.node("Cast", ["attention_mask"], "mask_int32", to=6)
    for number in range(N_LAYERS):
        hidden = _layer(graph, tensors, number, hidden, mask)
    weights = graph.node("Cast", ["attention_mask"], "mask_float32", to=1)
    axis = graph.constant("pool_axis", np.array([1], dtype=np.int64))
    row = graph.node("Unsqueeze", [weights, axis], "pool_weights")
    # The mean is left as a sum over the unmasked tokens: normalising makes them the same.
    total = graph.node("MatMul", [row, hidden], "pool_sum")
    pooled = graph.node("Squeeze", [total, axis], "pooled")
    return graph.model(graph.node("LpNormalization", [pooled], "embedding", axis=1, p=2))


def _embeddings(graph: _Graph, tensors: dict[str, Vectors], *, int8_words: bool) -> str:
    table = tensors["embeddings.word_embeddings.weight"]
    if int8_words:
        # One scale a row keeps rare words as exact as common ones, in a quarter of the bytes.
        scales = (np.abs(table).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
        scales[scales == 0] = 1
        rows = np.rint(table / scales).astype(np.int8)
        picked = graph.node("Gather", [graph.constant("words", rows), "input_ids"], "word_int8")
        scale = graph.node("Gather", [graph.constant("word_scales", scales), "input_ids"], "scale")
        as_float = graph.node("Cast", [picked], "word_cast", to=1)
        word = graph.node("Mul", [as_float, scale], "word")
    else:
        word = graph.node("Gather", [graph.constant("words", table), "input_ids"], "word")
    # A single text has token type 0 throughout, so that row is added to the positions here.
    positions = (
        tensors["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    shape = graph.node("Shape", ["input_ids"], "shape")
    one = graph.constant("one", np.array([1], dtype=np.int64))
    two = graph.constant("two", np.array([2], dtype=np.int64))
    zero = graph.constant("zero", np.array([0], dtype=np.int64))
    length = graph.node("Slice", [shape, one, two], "length")
    table_name = graph.constant("positions", positions[np.newaxis])
    position = graph.node("Slice", [table_name, zero, length, one], "position")
    return _skip_norm(graph, tensors, "embeddings.LayerNorm", word, position, None, "embedded")


def _layer(graph: _Graph, tensors: dict[str, Vectors], number: int, hidden: str, mask: str) -> str:
    source = f"encoder.layer.{number}"
    name = f"layer{number}"

    def matrix(part: str) -> Vectors:
        return tensors[f"{source}.{part}.weight"].T

    def bias(part: str) -> Vectors:
        return tensors[f"{source}.{part}.bias"]

    parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
    projection = np.concatenate([matrix(part) for part in parts], axis=1)
    projection_bias = np.concatenate([bias(part) for part in parts])
    attended = graph.fused(
        "Attention",
        [
            hidden,
            graph.constant(f"{name}_qkv", projection),
            graph.constant(f"{name}_qkv_bias", projection_bias),
            mask,
        ],
        f"{name}_attention",
        num_heads=N_HEADS,
    )

    def product(part: str, value: str) -> str:
        short = f"{name}_{part.replace('.', '_')}"
        return graph.node("MatMul", [value, graph.constant(f"{short}_weight", matrix(part))], short)

    def skip_norm(part: str, value: str, skip: str) -> str:
        dense_bias = graph.constant(f"{name}_{part}_bias", bias(f"{part}.dense"))
        norm = f"{source}.{part}.LayerNorm"
        return _skip_norm(graph, tensors, norm, value, skip, dense_bias, f"{name}_{part}_norm")

    mixed = skip_norm("attention.output", product("attention.output.dense", attended), hidden)
    wide = product("intermediate.dense", mixed)
    wide_bias = graph.constant(f"{name}_intermediate_bias", bias("intermediate.dense"))
    active = graph.fused("BiasGelu", [wide, wide_bias], f"{name}_gelu")
    return skip_norm("output", product("output.dense", active), mixed)


def _skip_norm(
    graph: _Graph,
    tensors: dict[str, Vectors],
    source: str,
    value: str,
    skip: str,
    bias: str | None,
    output: str,
) -> str:
    gamma = graph.constant(f"{output}_gamma", tensors[f"{source}.weight"])
    beta = graph.constant(f"{output}_beta", tensors[f"{source}.bias"])
    inputs = [value, skip, gamma, beta] + ([bias] if bias else [])
    return graph.fused("SkipLayerNormalization", inputs, output, epsilon=LAYER_NORM_EPSILON)
