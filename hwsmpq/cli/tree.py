"""The network as a tree of its modules."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.markup import escape
from rich.tree import Tree

from hwsmpq.types import Layer, Network


@dataclass
class _Module:
    layer: Layer | None = None
    children: dict[str, _Module] = field(default_factory=dict)

    @property
    def n_macs(self) -> int:
        own = self.layer.n_macs if self.layer else 0
        return own + sum(child.n_macs for child in self.children.values())


def network_tree(network: Network, title: str) -> Tree:
    """Every layer under the modules that hold it, with its share of the MACs; layers that must share a precision with
    others name the group."""
    root = _Module()
    for layer in network.layers:
        module = root
        for part in layer.name.split("."):
            module = module.children.setdefault(part, _Module())
        module.layer = layer
    tree, total = Tree(escape(title)), max(root.n_macs, 1)
    _grow(tree, root, network, total)
    return tree


def _grow(tree: Tree, module: _Module, network: Network, total: int) -> None:
    for name, child in module.children.items():
        # A module that holds one other is shown on one line with it.
        while child.layer is None and len(child.children) == 1:
            (inner, child), = child.children.items()
            name = f"{name}.{inner}"
        text = f"[bold]{escape(name)}[/]  {child.n_macs / total:.1%} of MACs"
        if child.layer:
            text += f"  {_described(child.layer, network)}"
        _grow(tree.add(text, highlight=False), child, network, total)


def _described(layer: Layer, network: Network) -> str:
    kernel = "x".join(map(str, layer.weight_shape[2:]))
    read = " by ".join("x".join(map(str, shape)) for shape in (layer.input_shape, layer.operand_shape) if shape)
    shape = f"{read} to {'x'.join(map(str, layer.output_shape))}"
    text = f"{layer.kind}{f' {kernel}' if kernel else ''}, {shape}, {layer.n_macs:,} MACs"
    if layer.has_weight:
        text += f", {layer.n_weights:,} weights"
    group = network.group_of(layer.name)
    shared = len(network.layers_of(group)) > 1
    return escape(text + (f", in the group of {group}" if shared else ""))
