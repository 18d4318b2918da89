"""The Newton–Schulz orthogonalisation of Muon, for matrices that are sharded in any way.

A matrix is orthogonalised whole, by one rank only: each rank collects the shards of one matrix and sends every rank its shard of the
result, in two exchanges for all ranks. Both carry bf16, in which Muon computes anyway, so that sharding changes nothing.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset

NUM_ITERATIONS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of the odd polynomial that is iterated on the singular values (https://kellerjordan.github.io/posts/muon)."""


@dataclass(frozen=True, slots=True)
class Block:
    """The rectangle of a matrix that a rank holds."""

    row: int
    column: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.height * self.width

    def of(self, matrix: Tensor) -> Tensor:
        return matrix[self.row : self.row + self.height, self.column : self.column + self.width]


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Where the shards of a matrix are."""

    blocks: tuple[Block, ...]
    """What each rank holds, by rank."""
    sends: tuple[bool, ...]
    """Whether each rank sends its shard to the owner, by rank: where several hold the same shard, only the first does."""


def build_shard_maps(matrices: Sequence[Tensor]) -> list[ShardMap]:
    """From shapes and meshes alone: no rank asks another. Without a DTensor this rank has all of them whole."""
    num_ranks = dist.get_world_size() if any(isinstance(matrix, DTensor) for matrix in matrices) else 1
    known: dict[object, ShardMap] = {}
    for matrix in matrices:
        if _kind(matrix) not in known:
            known[_kind(matrix)] = _shard_map(_blocks(matrix, num_ranks))
    return [known[_kind(matrix)] for matrix in matrices]


def orthogonalise_by_owners(updates: Sequence[Tensor], shard_maps: Sequence[ShardMap]) -> list[Tensor]:
    """This rank's shards of up to as many matrices as there are ranks → its shards of them orthogonalised; rank i does the i-th."""
    num_ranks, nothing = len(shard_maps[0].blocks), updates[0].new_empty(0, 0)
    idle = num_ranks - len(updates)
    updates = [*updates, *[nothing] * idle]
    shard_maps = [*shard_maps, *[ShardMap((Block(0, 0, 0, 0),) * num_ranks, (False,) * num_ranks)] * idle]
    rank = dist.get_rank() if num_ranks > 1 else 0
    mine = shard_maps[rank]
    shards = _exchange(
        [update if shard_map.sends[rank] else nothing for update, shard_map in zip(updates, shard_maps, strict=True)],
        [block.size * sends for block, sends in zip(mine.blocks, mine.sends, strict=True)],
    )
    whole = nothing.new_empty(
        max(block.row + block.height for block in mine.blocks), max(block.column + block.width for block in mine.blocks)
    )
    for block, sends, shard in zip(mine.blocks, mine.sends, shards, strict=True):
        if sends:
            block.of(whole).copy_(shard.view(block.height, block.width))
    whole = orthogonalise(whole)
    results = _exchange([block.of(whole) for block in mine.blocks], [shard_map.blocks[rank].size for shard_map in shard_maps])
    return [result.view_as(update) for result, update in zip(results, updates, strict=True)][: num_ranks - idle]


def orthogonalise(matrix: Tensor) -> Tensor:
    """A matrix in bf16 with its singular values brought near 1: Newton–Schulz on the side that is shorter."""
    flat = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    flat = flat / flat.norm().clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = flat @ flat.T
        flat = torch.addmm(flat, torch.addmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC), flat, beta=LINEAR)
    return flat.T if matrix.size(0) > matrix.size(1) else flat


def _exchange(sent: Sequence[Tensor], sizes: list[int]) -> list[Tensor]:
    """Gives the i-th tensor to rank i, and returns what rank i gave: `sizes[i]` elements, flat."""
    flat = torch.cat([tensor.reshape(-1) for tensor in sent])
    taken = flat
    if len(sizes) > 1:
        taken = flat.new_empty(sum(sizes))
        dist.all_to_all_single(taken, flat, sizes, [tensor.numel() for tensor in sent])
    return list(taken.split(sizes))


def _kind(matrix: Tensor) -> object:
    """Equal for matrices that are sharded alike."""
    return (matrix.shape, *((matrix.device_mesh, matrix.placements) if isinstance(matrix, DTensor) else ()))


def _blocks(matrix: Tensor, num_ranks: int) -> list[Block]:
    """What each rank holds of it, by rank. Its mesh may be of some of a larger mesh's axes: along the others ranks hold copies."""
    if not isinstance(matrix, DTensor):
        return [Block(0, 0, matrix.size(0), matrix.size(1))] * num_ranks
    mesh, whole = matrix.device_mesh, matrix.device_mesh._get_root_mesh()
    names = whole.mesh_dim_names or ()
    axes = range(mesh.ndim) if mesh is whole else [names.index(name) for name in mesh.mesh_dim_names or ()]
    blocks = [Block(0, 0, 0, 0)] * num_ranks
    for place in itertools.product(*map(range, whole.mesh.shape)):
        size, offset = _compute_local_shape_and_global_offset(matrix.shape, mesh.shape, [place[axis] for axis in axes], matrix.placements)
        blocks[int(whole.mesh[place])] = Block(offset[0], offset[1], size[0], size[1])
    return blocks


def _shard_map(blocks: Sequence[Block]) -> ShardMap:
    first_with = {block: rank for rank, block in reversed(list(enumerate(blocks)))}
    return ShardMap(tuple(blocks), tuple(block.size > 0 and first_with[block] == rank for rank, block in enumerate(blocks)))
