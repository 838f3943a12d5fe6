"""Random statements of a backward, as text: what random_backwards.py makes its programs of."""

from __future__ import annotations

import random

ARGUMENTS = 4
"""Of forward, and entries of what backward returns."""


class Writer:
    """Writes statements. ``variables`` may be read on every path, ``lists`` are lists that nothing else holds."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.variables = ["g", "h", "i"]
        self.lists: list[str] = []
        self.count = 0
        self.in_loop = False

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def tensor(self) -> str:
        """An expression that is a tensor or None."""
        rng, variable = self.rng, self.rng.choice(self.variables)
        texts = [
            "None",
            variable,
            variable,
            f"{variable} * 2",
            f"torch.neg({variable})",
            f"{variable}.clone()",
            "torch.ones(3)",
            "ctx.noted",
            "ctx.kept",
            f"maybe({variable})",
            f"maybe({variable}, {self.condition()})",
            f"maybe({variable}, wanted={self.condition()})",
            f"either({variable}, {rng.choice(self.variables)})",
            f"either(*[{variable}, None], last={rng.choice(self.variables)})",
            f"({variable} if {self.condition()} else {rng.choice(self.variables)})",
            f"({variable} or {rng.choice(self.variables)})" if rng.random() < 0.1 else variable,
            "getattr(ctx, 'kept')",
            f"(lambda value: value)({variable})",
            f"Kept({variable}).doubled",
            f"Kept({variable}).call({self.condition()})",
            f"({variable}, None)[{rng.randint(-2, 1)}]",
            f"[{variable}, ctx.noted][-1]",
            f"tuple(each for each in (None, {variable}))[1]",
            f"[each for each in (g, h, {variable}) if each is not None][0]",
            f"[None if each is None else each * 2 for each in ({variable}, g)][0]",
            f"dict(one={variable})['one']",
            "sum([torch.ones(3), torch.ones(3)])",
            f"gather({variable}, None, last={rng.choice(self.variables)})[-1]",
            f"gather({variable}, extra={rng.choice(self.variables)})[2]",
            f"collect({variable})",
            f"first_of(({variable}, None, {rng.choice(self.variables)}))",
            f"next(iter([{variable}]))",
            f"{{0: {variable}}}.get(0)",
            f"changed({variable}, {rng.choice(self.variables)})",
            f"type({variable}) and {variable}",
            f"({variable} if {variable} is not None else torch.zeros(3)).sum().expand(3)",
            f"[each for each in (None, {variable}, g) if {self.condition()}][-1]",
            f"max([0, 1]) and {variable}",
            f"torch.einsum('a->a', {variable})",
            f"listed({variable})[0]",
            f"([1 for _ in (1, 2) if {variable} is not None], {variable})[1]",
            f"torch.chunk({variable}, 3)[1].expand(3)",
            f"torch.max({variable}, 0)[0].expand(3)",
            f"(torch.split(torch.ones(3), 1) + ({variable},))[{rng.randint(-1, 2)}]",
            f"(({variable},) + (None,) * 2)[{rng.randint(-3, 1)}]",
            f"([None, {variable}] * torch.tensor(2))[{rng.randint(0, 3)}]",
            f"-{variable} * ({variable} > 0)",
            f"{variable}[:]",
        ]
        texts += [f"{rng.choice(self.lists)}[{rng.randint(-1, 1)}]"] * 3 if self.lists else []
        return rng.choice(texts)

    def condition(self, deep: int = 0) -> str:
        rng, variable = self.rng, self.rng.choice(self.variables)
        if deep < 2 and rng.random() < 0.3:
            return rng.choice(
                [
                    f"({self.condition(deep + 1)} and {self.condition(deep + 1)})",
                    f"({self.condition(deep + 1)} or {self.condition(deep + 1)})",
                    f"not {self.condition(deep + 1)}",
                ]
            )
        return rng.choice(
            [
                f"ctx.needs_input_grad[{rng.randint(0, ARGUMENTS - 1)}]",
                "ctx.flag",
                "FLAG",
                f"{variable} is None",
                f"{variable} is not None",
                f"isinstance({variable}, torch.Tensor)",
                f"isinstance({variable}, (tuple, list))",
                "ctx.kept is None",
                "any(ctx.needs_input_grad)",
                f"all(ctx.needs_input_grad[{rng.randint(0, 2)}:])",
                f"({variable} is not None or {self.rng.choice(self.variables)} is None)",
                "len(ctx.saved_tensors) > 1",
                f"(taken := {variable}) is not None",
                "float(ctx.saved_tensors[0].sum()) > 0",
                "1 < 2",
                f"{variable} is g",
            ]
        )

    def block(self, deep: int, least: int = 1) -> list[str]:
        """Statements; what they define stays inside, as they may not run."""
        variables, lists = list(self.variables), list(self.lists)
        lines = [line for _ in range(self.rng.randint(least, 3)) for line in self.statement(deep)]
        self.variables = variables
        self.lists = [name for name in lists if name in self.lists]
        return lines

    def statement(self, deep: int) -> list[str]:
        rng = self.rng
        writers = [self.assign, self.assign, self.reassign, self.new_list, self.change_list, self.unpack, self.context]
        if deep < 2:
            writers += [self.branch, self.branch, self.loop, self.attempt, self.within, self.inner, self.repeat]
        if self.in_loop:
            writers += [self.leave]
        return rng.choice(writers)(deep)

    def assign(self, deep: int) -> list[str]:
        text, name = self.tensor(), self.name("t")
        self.variables.append(name)
        return [f"{name} = {text}"]

    def reassign(self, deep: int) -> list[str]:
        name = self.rng.choice(self.variables)
        return [self.rng.choice([f"{name} = {self.tensor()}"] * 3 + [f"{name} += {self.tensor()}", f"{name} *= 2"])]

    def new_list(self, deep: int) -> list[str]:
        text = self.rng.choice(
            [
                f"[{self.tensor()}, {self.tensor()}]",
                "[None] * 2",
                f"list(({self.tensor()}, None))",
                "[None] * ARGUMENTS",
            ]
        )
        name = self.name("l")
        self.lists.append(name)
        return [f"{name} = {text}"]

    def change_list(self, deep: int) -> list[str]:
        if not self.lists:
            return self.new_list(deep)
        name = self.rng.choice(self.lists)
        return [
            self.rng.choice(
                [
                    f"{name}[{self.rng.randint(-1, 1)}] = {self.tensor()}",
                    f"{name}.append({self.tensor()})",
                    f"{name} += [{self.tensor()}]",
                    f"fill({name})",
                    f"alias = {name}; alias[0] = {self.tensor()}",
                    f"{name}.reverse()",
                    f"{name} = {name} + [None]",
                    f"({name}, other) = ({name}, None); {name}[1] = None",
                    f"{name}[:] = [{self.tensor()}, {self.tensor()}]",
                    f"{name} *= 2",
                    f"{name}.insert(0, {self.tensor()})",
                    f"{name}[0 if {self.condition()} else 1] = {self.tensor()}",
                    f"later = (each for each in {name}); {name}[0] = {self.tensor()}; {name}.append(next(later))",
                    f"held = dict(one={name}); held['one'][0] = {self.tensor()}",
                    f"held = [{name}]; held[0][1] = {self.tensor()}",
                    f"(lambda: {name}.append(None))()",
                    f"{name}.extend([{self.tensor()}])",
                    f"{name}[-1], {name}[0] = {name}[0], {name}[-1]",
                ]
            )
        ]

    def unpack(self, deep: int) -> list[str]:
        first, second = self.name("t"), self.name("t")
        text = self.rng.choice(
            [
                f"{first}, {second} = {self.tensor()}, {self.tensor()}",
                f"{first}, {second} = ctx.saved_tensors[:2]",
                f"{first}, *others, {second} = {self.tensor()}, None, {self.tensor()}",
                f"{first} = {second} = {self.tensor()}",
                f"({first}, {second}), other = ({self.tensor()}, {self.tensor()}), None",
                f"{first}, {second}, _, _ = ctx.needs_input_grad; {first} = {second} = {self.tensor()}",
                f"{first}, {second}, _ = torch.chunk(torch.ones(3), 3); {second} = {first}.expand(3)",
            ]
        )
        self.variables += [first, second]
        return [text]

    def context(self, deep: int) -> list[str]:
        return [
            self.rng.choice(
                [
                    f"ctx.kept = {self.tensor()}",
                    "ctx.flag = not ctx.flag",
                    "note(ctx)",
                    f"ctx.noted, ctx.kept = ctx.kept, {self.tensor()}",
                    f"setattr(ctx, 'kept', {self.tensor()})",
                    "ctx.needs_input_grad = ctx.needs_input_grad[::-1]",
                    "vars(ctx)['noted'] = None",
                    "holder = [ctx]; note(holder[0])",
                    "holder = (ctx,); note(*holder)",
                    "holder = dict(ctx=ctx); note(**holder)",
                    "(lambda: note(ctx))()",
                    "apply(lambda: note(ctx))",
                    "del ctx.noted; ctx.noted = None",
                    "other = ctx; other.noted = None",
                ]
            )
        ]

    def branch(self, deep: int) -> list[str]:
        lines = [f"if {self.condition()}:", *_indented(self.block(deep + 1))]
        if self.rng.random() < 0.6:
            lines += ["else:", *_indented(self.block(deep + 1))]
        if self.rng.random() < 0.15:
            lines += [f"if {self.condition()}:", f"    return {self.returned()}"]
        return lines

    def loop(self, deep: int) -> list[str]:
        variable = self.name("t")
        head = self.rng.choice(
            [
                f"for {variable} in ({self.tensor()}, {self.tensor()}):",
                f"for {variable} in ctx.saved_tensors:",
                f"for number, {variable} in enumerate([g, None]):",
                f"for {variable}, needed in zip((g, h), ctx.needs_input_grad):",
                f"for {variable} in g:",
                *([f"for {variable} in {self.rng.choice(self.lists)}:"] if self.lists else []),
            ]
        )
        grows = head.split()[-1].rstrip(":")
        self.variables.append(variable)
        body = self._looped(deep)
        self.variables.remove(variable)
        if grows in self.lists:
            body = [f"if len({grows}) > 9:", "    break", *body]
        end = ["else:", *_indented(self.block(deep + 1))] if self.rng.random() < 0.2 else []
        return [head, *_indented(body), *end]

    def repeat(self, deep: int) -> list[str]:
        counter = self.name("n")
        test = self.rng.choice([f"{counter} < 2", f"{counter} < 2 and {self.condition()}"])
        return [f"{counter} = 0", f"while {test}:", f"    {counter} += 1", *_indented(self._looped(deep))]

    def _looped(self, deep: int) -> list[str]:
        was, self.in_loop = self.in_loop, True
        body = self.block(deep + 1)
        self.in_loop = was
        return body

    def leave(self, deep: int) -> list[str]:
        return [f"if {self.condition()}:", f"    {self.rng.choice(['break', 'continue'])}"]

    def attempt(self, deep: int) -> list[str]:
        lines = ["try:", *_indented(self.block(deep + 1))]
        if self.rng.random() < 0.4:
            lines += ["    raise ValueError"] if self.rng.random() < 0.5 else ["    g.no_such_method()"]
        if self.rng.random() < 0.7:
            lines += ["except Exception as error:", *_indented(self.block(deep + 1))]
            if self.rng.random() < 0.3:
                lines += ["else:", *_indented(self.block(deep + 1))]
            return lines
        if self.rng.random() < 0.3:
            lines += [f"    if {self.condition()}:", f"        return {self.returned()}"]
        was, self.in_loop = self.in_loop, False
        lines += ["finally:", *_indented(self.block(deep + 1))]
        self.in_loop = was
        return lines

    def within(self, deep: int) -> list[str]:
        manager = self.rng.choice(["torch.no_grad()", "torch.enable_grad()", "contextlib.suppress(Exception)"])
        lines = [f"with {manager}:", *_indented(self.block(deep + 1))]
        return [*lines, "    g.no_such_method()"] if "suppress" in manager and self.rng.random() < 0.5 else lines

    def inner(self, deep: int) -> list[str]:
        name, argument = self.name("f"), self.name("p")
        variables, lists, self.lists = list(self.variables), self.lists, []
        self.variables.append(argument)
        text = self.tensor().replace("taken := ", "")
        self.variables, self.lists = variables, lists
        made = self.name("t")
        self.variables.append(made)
        default = self.rng.choice(["", f", extra={self.rng.choice(variables)}"])
        return [
            f"def {name}({argument}{default}):",
            f"    return {text}",
            f"{made} = {name}({self.rng.choice(variables)})",
        ]

    def returned(self) -> str:
        entries = [self.tensor() for _ in range(ARGUMENTS)]
        texts = [", ".join(entries)] * 6
        texts += [f"tuple([{', '.join(entries)}])", f"(*({entries[0]}, {entries[1]}), {entries[2]}, {entries[3]})"]
        texts += [f"tuple({name}) + (None,) * (4 - len({name}))" for name in self.lists]
        texts += [f"(*{name}, None, None)" for name in self.lists]
        return self.rng.choice(texts)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
