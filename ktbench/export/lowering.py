"""Rewrites of a traced graph into operators that converters write down well."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, Node

_ATEN = torch.ops.aten
_AVERAGE, _MAX = _ATEN.adaptive_avg_pool2d.default, _ATEN.adaptive_max_pool2d.default


def pool_evenly(program: torch.export.ExportedProgram) -> None:
    """Write adaptive pooling over equal windows as pooling, over the whole map as a reduction.

    Of the adaptive average the TFLite converter writes an index for every element, which no other
    batch than that of the trace fits; the adaptive maximum it does not know.
    """
    graph = program.graph_module.graph
    if not any(node.target in (_AVERAGE, _MAX) for node in graph.nodes):
        return
    for node in list(graph.find_nodes(op="call_function", target=_AVERAGE)):
        if (window := _window(node)) is not None:
            _replace(graph, node, _pooled(graph, node, window, _ATEN.avg_pool2d.default))
    for node in list(graph.find_nodes(op="call_function", target=_MAX)):
        for user in [user for user in node.users if not user.users]:
            graph.erase_node(user)
        reads = list(node.users)  # the maxima, and where they were
        if (window := _window(node)) is None or any(
            user.target is not operator.getitem or user.args[1] != 0 for user in reads
        ):
            continue
        for user in reads:
            _replace(graph, user, _pooled(graph, node, window, _ATEN.max_pool2d.default))
        graph.erase_node(node)
    program.graph_module.recompile()


def _window(node: Node) -> list[int] | None:
    """The height and width of each window; None where they differ from each other in size."""
    source: Any = node.args[0]
    size: Any = node.args[1]
    height, width = source.meta["val"].shape[-2:]
    rows, columns = size
    return None if height % rows or width % columns else [height // rows, width // columns]


def _pooled(graph: Graph, node: Node, window: list[int], pool: Any) -> Node:
    """The maxima or averages of a map's windows."""
    source, size = node.args[:2]
    with graph.inserting_before(node):
        if list(size) != [1, 1]:  # type: ignore[arg-type]
            return graph.call_function(pool, (source, window, window))
        whole = _ATEN.mean.dim if node.target is _AVERAGE else _ATEN.amax.default
        return graph.call_function(whole, (source, [-1, -2], True))


def _replace(graph: Graph, old: Node, new: Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
