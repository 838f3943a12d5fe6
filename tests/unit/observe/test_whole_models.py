"""Each model of the zoo: its recorded forward against the model, and what is predicted against real backward."""

import pytest
import torch
from recorded_forward import REFUSED, recorded_forward_problems
from zoo import ZOO

import fxgrad

NOT_PLAIN = "which is neither a tensor nor a plain value"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=ZOO)
def entry(request):
    """A model, and a function that makes its arguments anew, the same each time."""
    make = ZOO[request.param]

    def arguments():
        torch.manual_seed(0)
        return make()[1:]

    torch.manual_seed(0)
    return make()[0], arguments


NOT_REPEATED = {
    "forward_mode": "it enters a level of forward-mode AD",
    "random_state_put_back": "it sets the random state",
    "seeded_inside": "it sets the random state",
    "autocast_region": "it switches autocast",
    "inference_region": "it switches inference mode",
    "default_dtype": "it changes the default dtype",
    "chosen_kernels": "it selects kernels",
    "chosen_recurrent_kernel": "it selects kernels",
    "scripted_submodule": "it calls the scripted method forward, which has parameters of its own",
    "dataclass_output": f"its output holds a Scores, {NOT_PLAIN}",
    "object_in_output": f"its output holds a Holder, {NOT_PLAIN}",
    "function_under_vmap": f"it passes _flat_vmap a method, {NOT_PLAIN}",
    "func_vmap": f"it passes _flat_vmap a function, {NOT_PLAIN}",
    "func_grad": f"it passes grad_and_value_impl a function, {NOT_PLAIN}",
    "func_jvp": f"it passes _jvp_with_argnums a function, {NOT_PLAIN}",
    "func_jacobian": f"it passes _vjp_with_argnums a Linear, {NOT_PLAIN}",
    "func_vjp": f"it passes _vjp_with_argnums a function, {NOT_PLAIN}",
    "reversible_block": f"it passes Reversible a Linear, {NOT_PLAIN}",
    "kept_graph": f"it passes KeptGraph a Linear, {NOT_PLAIN}",
    "differentiated_by_what_was_saved": f"it passes BySaved a Linear, {NOT_PLAIN}",
    "given_weights": f"it passes GivenWeights a Linear, {NOT_PLAIN}",
    "backward_in_a_helper": f"it passes ByHelper a Linear, {NOT_PLAIN}",
    "helper_with_a_closure": f"it passes ByHelper a function, {NOT_PLAIN}",
}


def test_the_recorded_forward_of_a_whole_model_gives_what_the_model_gives_or_is_refused(entry, request):
    name = request.node.callspec.params["entry"]
    refused = [f"{REFUSED}{NOT_REPEATED[name]}"] if name in NOT_REPEATED else []
    assert recorded_forward_problems(*entry) == refused


def note(*_):
    """A hook that returns nothing."""


def test_what_hooks_of_a_whole_model_will_get_is_what_backward_gives_them(entry):
    model, arguments = entry
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(note)
            parameter.register_post_accumulate_grad_hook(note)
    args, kwargs = arguments()
    verification = fxgrad.verify(model, args, kwargs)
    assert verification.ok, str(verification)
