"""Changes of layers, attributes and containers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from changing_modules.making import Other, change


@change
def batch_norm(self, x):
    return self.norm(x)


@change
def renormalized_embedding(self, x):
    return x + self.embedding(torch.arange(x.shape[0]) % 5)


@change
def spectral_norm(self, x):
    return self.spectral(x)


@change
def dropout(self, x):
    return F.dropout(x, 0.5)


@change
def module_in_a_list(self, x):
    return self.hidden[1]["a"](self.hidden[0](x))


# Attributes


@change
def cache_attribute(self, x):
    self.cache = self.linear(x)
    return self.cache


@change
def attribute_deleted(self, x):
    del self.number


@change
def attributes_reordered(self, x):
    self.__dict__["training"] = self.__dict__.pop("training")


@change
def attribute_table_replaced(self, x):
    object.__setattr__(self, "__dict__", {**self.__dict__, "number": 5})


@change
def property_set(self, x):
    self.doubled = 8


@change
def slots_set(self, x):
    self.slot = self.empty_slot = 2
    self.slot_list.append(2)


@change
def slot_deleted(self, x):
    del self.slot


@change
def train_and_eval(self, x):
    self.eval()
    self.norm.train()


@change
def class_changed(self, x):
    self.linear.__class__ = Other


@change
def tensor_attribute(self, x):
    self.scale.flag = True
    self.count.tags = ["a"]


@change
def tensor_class(self, x):
    self.count.__class__ = nn.Buffer


# Containers


@change
def list_appended(self, x):
    self.kept.append(x)


@change
def nested_list_changed(self, x):
    self.table["list"][1].insert(0, x)
    self.pair[1].clear()


@change
def dict_changed(self, x):
    self.table["new"] = self.table.pop(None)
    del self.table["list"]


@change
def set_changed(self, x):
    self.members.discard("two")
    self.members.update(range(100))
    self.table[1, 2].clear()


@change
def deque_changed(self, x):
    self.queue.extend([3, 4])
    self.queue.rotate()


@change
def counter_and_ordered_dict_changed(self, x):
    self.counter.update("abc")
    self.ordered.move_to_end("a")


@change
def dict_of_a_class_changed(self, x):
    self.attributes["inside"].append(2)
    self.attributes["depth"] = 2
