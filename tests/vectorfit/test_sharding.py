"""Under FSDP two processes share the weights and vectors out, and train what one trains."""

import multiprocessing
import os
import socket

import peft
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import vectorfit as vf
import vectorfit.peft as vp
from vectorfit.layers import VectorFitLayer

STEPS = 10


def model(through_peft):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 10), nn.GELU(), nn.Linear(10, 3))
    if through_peft:
        return peft.get_peft_model(net, vp.VectorFitConfig())
    vf.inject(net)
    return net


def train(net, part, parts):
    """Ten updates on this process's part of every batch; returns the frozen sets."""
    avf = vf.AdaptiveVectorFreezing(net, first_step=3, every=2, num_freezes=3, top_k=2)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.02, weight_decay=0.1)
    frozen = []
    for step, batch in enumerate(torch.randn(STEPS, 8, 6, generator=torch.Generator().manual_seed(1)), start=1):
        net.train()(batch.chunk(parts)[part]).square().mean().backward()
        frozen.append(avf.step(step))
        optimizer.step()
        optimizer.zero_grad()
    return frozen


def rank(number, port, folder, through_peft):
    settings = {"RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in settings.items()})
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    net, mesh = model(through_peft), dist.init_device_mesh("cpu", (2,))
    for module in list(net.modules()):
        if not through_peft and isinstance(module, VectorFitLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    frozen = train(net, number, 2)
    vectors = {name: vector.full_tensor() for name, vector in vf.vector_parameters(net).items()}
    shares = {name: vector.to_local().numel() for name, vector in vf.vector_parameters(net).items()}
    if not through_peft:
        vf.save_vectors(net, folder / f"{number}.safetensors", base_model="test")
    torch.save({"frozen": frozen, "vectors": vectors, "shares": shares}, folder / f"{number}.pt")
    old = FullyShardedDataParallel(model(False), use_orig_params=True, device_id=torch.device("cpu"))
    with pytest.raises(vf.VectorFitError, match="use fully_shard"):
        vf.AdaptiveVectorFreezing(old, first_step=3, every=2, num_freezes=3, top_k=2)
    dist.barrier()
    os._exit(0)


@pytest.mark.parametrize("through_peft", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fully_sharded_processes_train_what_one_trains(tmp_path, through_peft):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peft", "torch.distributed.fsdp"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=rank, args=(number, port, tmp_path, through_peft)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    alone = model(through_peft)
    frozen = train(alone, 0, 1)
    found = [torch.load(tmp_path / f"{number}.pt") for number in range(2)]
    assert found[0]["frozen"] == found[1]["frozen"] == frozen
    for name, vector in vf.vector_parameters(alone).items():
        assert found[0]["shares"][name] < len(vector)  # it truly was shared out
        torch.testing.assert_close(found[0]["vectors"][name], vector.detach(), atol=1e-6, rtol=1e-4)
    if not through_peft:
        assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
        fresh = model(False)
        vf.remove(fresh)
        vf.load_vectors(fresh, tmp_path / "0.safetensors")  # on the base's own weights: the hash was of whole ones
