"""When hooks on several tensors are called, held against a real backward."""

import pytest
import torch
from real_backward import Bench, assert_as_predicted


def leaf():
    return torch.randn(3, requires_grad=True)


def the_site(predicted):
    (site,) = predicted.sites
    return site


def statuses(site):
    return [gradient.status for gradient in site.grad_output]


def test_an_all_hook_is_called_at_the_tensor_that_backward_comes_to_last():
    x, w = leaf(), leaf()
    y = x * w
    bench = Bench(y.sin())
    bench.on_several([x, y, w])
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.node == bench.place(w)[0]
    assert statuses(site) == ["tensor"] * 3


def test_an_any_hook_is_called_at_the_tensor_that_backward_comes_to_first_with_its_gradient_alone():
    x = leaf()
    y = x * 2
    bench = Bench(y.sin())
    bench.on_several([x, y], "any")
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.node == bench.place(y)[0]
    assert statuses(site) == ["tensor"]


def test_an_all_hook_gets_none_for_a_tensor_that_backward_does_not_come_to():
    x, apart = leaf(), leaf()
    bench = Bench(x * 2)
    bench.on_several([x, apart * 2])
    site = the_site(assert_as_predicted(lambda: bench))
    assert [(gradient.status, gradient.reason) for gradient in site.grad_output] == [
        ("tensor", None),
        ("none", "backward does not come to it"),
    ]


def test_an_all_hook_does_not_wait_for_what_leads_to_no_input():
    x, w = leaf(), leaf()
    y = x * w
    bench = Bench(y.sum())
    bench.on_several([y, w])
    site = the_site(assert_as_predicted(lambda: bench, [x]))
    assert statuses(site) == ["tensor", "none"]


def test_the_same_tensor_twice_counts_twice():
    y = leaf() * 2
    bench = Bench(y.sum())
    bench.on_several([y, y])
    assert statuses(the_site(assert_as_predicted(lambda: bench))) == ["tensor", "tensor"]


def test_an_all_hook_on_the_lone_root_alone_is_never_called():
    y = leaf().sum()
    bench = Bench(y)
    bench.on_several([y])
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.fires is False
    assert "does not count the root" in site.reason


def test_an_all_hook_on_the_lone_root_and_another_tensor_is_called_for_each():
    x = leaf()
    y = (x * 2).sum()
    bench = Bench(y)
    bench.on_several([y, x])
    site = the_site(assert_as_predicted(lambda: bench))
    assert site.times == 2
    assert statuses(site) == ["unknown", "unknown"]
    assert site.grad_output[0].reason == "the hook is called 2 times, 1 of them with this gradient"


def test_one_of_several_roots_is_counted():
    x = leaf()
    y = x.sum()
    bench = Bench([y, x.mean()])
    bench.on_several([y, x])
    assert the_site(assert_as_predicted(lambda: bench)).times == 1


def test_an_all_hook_has_its_place_among_the_hooks_of_the_last_tensor():
    x = leaf()
    y = x * 2
    bench = Bench(y.sum())
    bench.on_tensor(x)
    bench.on_several([y, x])
    bench.on_tensor(x)
    predicted = assert_as_predicted(lambda: bench)
    assert [site.hook.id for site in predicted.sites] == [0, 1, 2]


def test_grad_raises_where_an_all_hook_is_on_a_listed_leaf_and_nothing_is_called_after_that():
    x = leaf()
    y = x * 2
    bench = Bench(y.sum()).on_every_node()
    bench.on_several([y, x])
    predicted = bench.predicted([x], "grad")
    with pytest.raises(RuntimeError, match="A leaf node was passed"):
        bench.run([x], "grad")
    assert not bench.compared(predicted).wrong
    assert [site.reason for site in predicted.sites if site.hook.mode] == [
        "autograd.grad raises: one of the hook's tensors is a leaf in inputs="
    ]


def test_a_hook_on_tensors_that_are_all_elsewhere_has_a_site_that_never_fires():
    bench = Bench(leaf() * 2)
    bench.on_several([leaf() * 3])
    site = the_site(bench.predicted())
    assert (site.node, site.fires) == (None, False)
