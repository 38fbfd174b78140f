"""Networks that end the process they run in, as the text of a user's file."""

NETWORKS = '''
import ctypes, os, sys, time
import torch
from torch import nn


class Quiet(nn.Module):
    """Trains; whatever a subclass does, it does from its fourth training step on."""

    def __init__(self, num_classes, in_channels, width=8):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.head = nn.Linear(width, num_classes)
        self.steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
            if self.steps > 3:
                self.act()
        return self.head(self.stem(x).mean((2, 3)))

    def act(self):
        pass


class Crashes(Quiet):
    def act(self):
        ctypes.string_at(0)


class CorruptsTheHeap(Quiet):
    def act(self):
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        block = libc.malloc(64)
        ctypes.memset(block, 0x41, 1 << 16)
        libc.free(ctypes.c_void_p(block))


class Leaves(Quiet):
    def act(self):
        os._exit(0)


class Hangs(Quiet):
    def act(self):
        while True:
            pass


class TakesAllMemory(Quiet):
    def act(self):
        self.kept = torch.ones(1 << 42, dtype=torch.uint8)


class CrashesInExport(Quiet):
    def forward(self, x):
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            os._exit(7)
        return super().forward(x)


class LeavesAtOnce(Quiet):
    def __init__(self, num_classes, in_channels):
        os._exit(3)


class HangsAtOnce(Quiet):
    def forward(self, x):
        while True:
            pass
'''
