"""Small models of libraries that are built on PyTorch, with random weights: nothing is downloaded.

`LIBRARIES[name][model]() -> (model, args, kwargs)`, as in tests/support/zoo.py. Each public function is named after its
library and says what is special about the model. Nothing is imported before one is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Entry = Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]

TOKENS = 20
SMALL = {"vocab_size": TOKENS, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SMALL, "intermediate_size": 16, "max_position_embeddings": 32}


def _tokens(*, labels: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, TOKENS, (2, 5))
    return {"input_ids": ids, "labels": ids} if labels else {"input_ids": ids}


# transformers


def transformers_bert():
    """A classifier with a loss, of which the output is a dataclass."""
    from transformers import BertConfig, BertForSequenceClassification

    return (
        BertForSequenceClassification(BertConfig(**WIDE)),
        (),
        _tokens(labels=False) | {"labels": torch.tensor([0, 1])},
    )


def transformers_bert_without_a_loss():
    """Backward starts from hidden states and attentions of every layer."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**WIDE, output_hidden_states=True, output_attentions=True, attn_implementation="eager")
    return BertModel(config), (), _tokens(labels=False)


def transformers_gpt2():
    """Tied weights, and a cache that the output holds."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=TOKENS, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config), (), _tokens()


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**WIDE, num_key_value_heads=1))


def transformers_llama():
    """Grouped queries, rotary positions and RMSNorm."""
    return _llama(), (), _tokens()


def transformers_llama_reentrant():
    """Each layer in a reentrant checkpoint."""
    model = _llama()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    return model.train(), (), _tokens()


def transformers_llama_checkpointed():
    """Each layer in a checkpoint that is not reentrant."""
    model = _llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train(), (), _tokens()


def transformers_mixtral():
    """Which experts run is decided by the values."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(**WIDE, num_key_value_heads=1, num_local_experts=3, output_router_logits=True)
    return MixtralForCausalLM(config), (), _tokens()


def transformers_phimoe():
    """A router that is an autograd Function."""
    from transformers import PhimoeConfig, PhimoeForCausalLM

    config = PhimoeConfig(**WIDE, num_key_value_heads=1, num_local_experts=3, bos_token_id=1, eos_token_id=2)
    return PhimoeForCausalLM(config).train(), (), _tokens()


def transformers_t5():
    """Encoder and decoder share their embedding."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=TOKENS, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config), (), _tokens()


def transformers_mamba():
    """A scan in Python over the steps."""
    from transformers import MambaConfig, MambaForCausalLM

    return (
        MambaForCausalLM(MambaConfig(vocab_size=TOKENS, hidden_size=8, num_hidden_layers=2, state_size=4)),
        (),
        _tokens(),
    )


def transformers_recurrent_gemma():
    """The square root of the recurrent layer is an autograd Function."""
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    config = RecurrentGemmaConfig(
        **{**SMALL, "num_hidden_layers": 3}, intermediate_size=16, num_key_value_heads=1, lru_width=8,
        attention_window_size=8,
    )  # fmt: skip
    return RecurrentGemmaForCausalLM(config), (), _tokens()


def transformers_bloom():
    """GELU is an autograd Function."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=TOKENS, hidden_size=8, n_layer=2, n_head=2)), (), _tokens()


def transformers_reformer():
    """Reversible layers: an autograd Function whose backward runs each layer again, and calls backward itself."""
    from transformers import ReformerConfig, ReformerModelWithLMHead

    config = ReformerConfig(
        vocab_size=TOKENS, hidden_size=8, num_attention_heads=2, attention_head_size=4, feed_forward_size=16,
        attn_layers=["local", "lsh"], axial_pos_embds=False, max_position_embeddings=16, num_hashes=1, num_buckets=2,
        local_attn_chunk_length=4, lsh_attn_chunk_length=4, is_decoder=True,
    )  # fmt: skip
    ids = torch.randint(3, TOKENS, (2, 8))
    return ReformerModelWithLMHead(config).train(), (), {"input_ids": ids, "labels": ids}


def transformers_sew_d():
    """Softmax and dropout are autograd Functions; a CTC loss."""
    from transformers import SEWDConfig, SEWDForCTC

    config = SEWDConfig(
        **WIDE, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), squeeze_factor=1, position_buckets=4,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, pad_token_id=0,
    )  # fmt: skip
    return SEWDForCTC(config).train(), (torch.randn(2, 400),), {"labels": torch.randint(3, TOKENS, (2, 4))}


def transformers_ibert():
    """Quantization: rounding is an autograd Function with gradients straight through."""
    from transformers import IBertConfig, IBertForSequenceClassification

    model = IBertForSequenceClassification(IBertConfig(**WIDE, quant_mode=True, pad_token_id=1))
    return model.train(), (), _tokens(labels=False) | {"labels": torch.tensor([0, 1])}


def transformers_rwkv():
    """A recurrence; its CUDA kernel would be an autograd Function."""
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(vocab_size=TOKENS, hidden_size=8, num_hidden_layers=2, attention_hidden_size=8)
    return RwkvForCausalLM(config), (), _tokens()


def transformers_vit():
    """Images, in patches."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    return ViTForImageClassification(config), (torch.randn(2, 3, 16, 16),), {"labels": torch.tensor([0, 1])}


def transformers_wav2vec2():
    """Weight norm as a parametrization, masked steps, and a CTC loss."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        **{**WIDE, "num_hidden_layers": 1}, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3),
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_length=2,
    )  # fmt: skip
    return Wav2Vec2ForCTC(config).train(), (torch.randn(2, 400),), {"labels": torch.randint(3, TOKENS, (2, 4))}


# peft


def _with_adapter(config: Any, model: nn.Module | None = None) -> nn.Module:
    from peft import get_peft_model

    return get_peft_model(_llama() if model is None else model, config)


def peft_lora():
    """Low-rank adapters beside frozen weights."""
    from peft import LoraConfig

    return _with_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")), (), _tokens()


def peft_lora_reentrant():
    """A training step: frozen layers in reentrant checkpoints, the embedding's output made to require grad."""
    from peft import LoraConfig

    model = transformers_llama_reentrant()[0]
    config = LoraConfig(r=2, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return _with_adapter(config, model).train(), (), _tokens()


def peft_lora_reentrant_without_gradients():
    """The same where nothing makes the embedding's output require grad: no adapter gets a gradient, the head does."""
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = _with_adapter(config)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.disable_input_require_grads()
    return model.train(), (), _tokens()


def peft_dora():
    """The norm of the adapted weight is part of the graph."""
    from peft import LoraConfig

    return (
        _with_adapter(LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM")),
        (),
        _tokens(),
    )


def peft_loha():
    """The product of the factors is an autograd Function."""
    from peft import LoHaConfig

    return _with_adapter(LoHaConfig(r=2, target_modules=["q_proj", "v_proj"])), (), _tokens()


def peft_boft():
    """Orthogonal factors."""
    from peft import BOFTConfig

    return _with_adapter(BOFTConfig(boft_block_size=4, target_modules=["q_proj"])), (), _tokens()


def peft_ia3():
    """Vectors that scale what goes in and comes out."""
    from peft import IA3Config

    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    return _with_adapter(config), (), _tokens()


def peft_prompt_tuning():
    """Only the prompt in front of the tokens is trained."""
    from peft import PromptTuningConfig

    return _with_adapter(PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")), (), _tokens()


# timm


def _timm(name: str, size: int, **options: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Nothing in place: PyTorch refuses to change in place what a full hook wraps."""
    import timm

    model = timm.create_model(name, num_classes=3, **options)
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return model, (torch.randn(2, 3, size, size),), {}


def timm_resnet():
    """Residual blocks with squeeze and excitation, and anti-aliasing."""
    return _timm("test_resnet", 32)


def timm_vit():
    """A vision transformer with stochastic depth."""
    return _timm("test_vit", 160, drop_path_rate=0.2)


def timm_efficientnet():
    """Inverted bottlenecks."""
    return _timm("test_efficientnet", 32)


def timm_memory_efficient_activations():
    """Swish is an autograd Function: TorchScript computes its derivative."""
    from timm.layers.activations_me import HardMishMe, HardSwishMe, MishMe, SwishMe

    model = nn.Sequential(nn.Linear(3, 3), SwishMe(), nn.Linear(3, 3), MishMe(), HardSwishMe(), HardMishMe())
    return model, (torch.randn(2, 3),), {}


def timm_nfnet():
    """Scaled weight standardization in place of norms."""
    return _timm("test_nfnet", 32)


def timm_convnext():
    """Depthwise convolutions, LayerNorm over channels."""
    return _timm("test_convnext", 32)


# torch_geometric


class _Convolutions(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


def _geometric(kind: str, **options: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    from torch_geometric import nn as geometric

    convolution = getattr(geometric, kind)
    edges = torch.tensor([[0, 1, 1, 2, 3, 3], [1, 0, 2, 1, 0, 2]])
    return _Convolutions(convolution(3, 4, **options), convolution(4, 2, **options)), (torch.randn(4, 3), edges), {}


def torch_geometric_gcn():
    """Messages scaled by degrees."""
    return _geometric("GCNConv")


def torch_geometric_gat():
    """Attention over edges: a softmax over groups of different sizes."""
    return _geometric("GATConv", edge_dim=None, dropout=0.1)


def torch_geometric_gat2():
    """Dynamic attention."""
    return _geometric("GATv2Conv")


def torch_geometric_sage():
    """The largest message of each channel."""
    return _geometric("SAGEConv", aggr="max")


def torch_geometric_transformer():
    """Attention with a gate."""
    return _geometric("TransformerConv", beta=True)


def torch_geometric_graph_network():
    """A network in a convolution, and a pooled result for each graph."""
    from torch_geometric import nn as geometric

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = geometric.GINConv(
                nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)), train_eps=True
            )
            self.norm = geometric.GraphNorm(4)

        def forward(self, x: torch.Tensor, edges: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
            return geometric.global_max_pool(self.norm(self.convolution(x, edges), batch), batch)

    edges = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    return Network(), (torch.randn(4, 3), edges, torch.tensor([0, 0, 1, 1])), {}


def torch_geometric_reversible():
    """A reversible layer: an autograd Function that frees its input's memory and computes it again in backward."""
    from torch_geometric.nn import GCNConv, GroupAddRev

    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    return GroupAddRev(GCNConv(2, 2), num_groups=2), (torch.randn(3, 4, requires_grad=True) * 1, edges), {}


# captum


class _Attributed(nn.Module):
    """Attributes in forward, and returns what it attributed as well."""

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        self.make = make

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attributed = self.make(self.inner).attribute(x.detach(), target=0)
        return self.inner(x), attributed


def captum_saliency():
    """A backward inside forward."""
    from captum.attr import Saliency

    return _Attributed(Saliency), (torch.randn(2, 3),), {}


def captum_deep_lift():
    """Registers full hooks of its own inside forward, and removes them."""
    from captum.attr import DeepLift

    return _Attributed(DeepLift), (torch.randn(2, 3),), {}


def captum_guided_backpropagation():
    """A hook of its own on each ReLU inside forward."""
    from captum.attr import GuidedBackprop

    return _Attributed(GuidedBackprop), (torch.randn(2, 3),), {}


def captum_gates():
    """Stochastic gates, with their regularization."""
    from captum.module import BinaryConcreteStochasticGates

    return BinaryConcreteStochasticGates(3), (torch.randn(2, 3),), {}


def captum_embedding():
    """An embedding replaced by one that lets tensors through."""
    from captum.attr import configure_interpretable_embedding_layer

    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    configure_interpretable_embedding_layer(model, "0")
    return model, (torch.randn(2, 4, 3),), {}


# opacus


def _with_sample_gradients(model: nn.Module) -> nn.Module:
    from opacus import GradSampleModule

    return GradSampleModule(model)


def opacus_linear():
    """Gradients of each sample: full hooks of its own on every module with parameters."""
    return _with_sample_gradients(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), (torch.randn(2, 3),), {}


def opacus_convolution():
    """The same for a convolution and a norm."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    return _with_sample_gradients(model), (torch.randn(2, 1, 4, 4),), {}


def opacus_lstm():
    """An LSTM of Linear layers, unrolled in Python."""
    from opacus.layers import DPLSTM

    return DPLSTM(3, 4, batch_first=True), (torch.randn(2, 3, 3),), {}


def opacus_lstm_of_samples():
    """The same with gradients of each sample."""
    return _with_sample_gradients(opacus_lstm()[0]), (torch.randn(2, 3, 3),), {}


def opacus_attention():
    """Multi-head attention of Linear layers."""
    from opacus.layers import DPMultiheadAttention

    x = torch.randn(3, 2, 4)
    return DPMultiheadAttention(4, 2), (x, x, x), {}


# torchdiffeq


class _Dynamics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.net(y) * t


class _Solved(nn.Module):
    def __init__(self, solver: str, **options: Any) -> None:
        super().__init__()
        self.dynamics, self.solver, self.options = _Dynamics(), solver, options

    def forward(self, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        import torchdiffeq

        solution = getattr(torchdiffeq, self.solver)(self.dynamics, y, t, **self.options)
        return solution[-1]


def _solved(solver: str, **options: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    return _Solved(solver, **options), (torch.randn(2, 2), torch.linspace(0.1, 0.3, 3)), {}


def torchdiffeq_euler():
    """Fixed steps."""
    return _solved("odeint", method="euler")


def torchdiffeq_adaptive():
    """How many steps there are is decided by the values; a step that is an autograd Function."""
    return _solved("odeint", method="dopri5", rtol=1e-2, atol=1e-2)


def torchdiffeq_adjoint():
    """An autograd Function whose backward solves another equation, with backward inside."""
    return _solved("odeint_adjoint", method="rk4")


def torchdiffeq_adjoint_of_times():
    """The same with times that require grad."""
    model, (y, t), kwargs = _solved("odeint_adjoint", method="dopri5", rtol=1e-2, atol=1e-2)
    return model, (y.requires_grad_(), t.requires_grad_()), kwargs


def _entries(library: str) -> dict[str, Entry]:
    functions = {name: made for name, made in globals().items() if inspect.isfunction(made)}
    return {name: made for name, made in functions.items() if name.startswith(f"{library}_")}


LIBRARIES: dict[str, dict[str, Entry]] = {
    library: _entries(library)
    for library in ("transformers", "peft", "timm", "torch_geometric", "captum", "opacus", "torchdiffeq")
}
