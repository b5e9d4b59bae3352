import sys
import threading
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from steerable_llm.errors import ModelMismatchError, SteeringNotAppliedError
from steerable_llm.runtime.hooks import capture_block_outputs, steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import SCOPES, Application, Steering, steer_hidden

WIDTH = 4
LAYERS = 3


class AddOne(nn.Module):
    """A block that adds one; older blocks return tuples, newer ones tensors."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, h):
        return (h + 1, "cache") if self.as_tuple else h + 1


class Stack(nn.Module):
    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AddOne(as_tuple) for _ in range(LAYERS))

    def forward(self, h):
        for layer in self.layers:
            output = layer(h)
            h = output[0] if layer.as_tuple else output
        return h


class Vector:
    """A planted direction of length 2 along the second axis."""

    name = "planted"
    fingerprint_id = "0123"
    decision_tokens = 1

    def __init__(self, *layers: int) -> None:
        self.directions = {i: torch.tensor([0.0, 2.0, 0.0, 0.0]) for i in layers}
        self.scales = dict.fromkeys(layers, 10.0)


def steered(*layers, strength=0.5, **options):
    options = {"unit": "absolute", "renormalise": False, "scope": "all", **options}
    return Steering.of(Vector(*layers), strength, **options)


def plan_for(*steerings, tokens=3, last_prompt=None):
    mask = torch.ones(len(steerings), tokens)
    return SteeringPlan(steerings, mask, tokens - 1 if last_prompt is None else last_prompt)


def no_hooks(model):
    return all(not layer._forward_hooks for layer in model.layers)


@pytest.mark.parametrize("as_tuple", [False, True], ids=["tensor", "tuple"])
def test_a_planted_direction_arrives_on_every_row_and_token(as_tuple):
    model, h = Stack(as_tuple), torch.zeros(2, 3, WIDTH)
    with steering_hooks(model.layers, plan_for(steered(1), steered(1))):
        changed = model(h)
    assert torch.equal(changed - model(h), torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(2, 3, 4))


def test_a_tuple_keeps_what_is_not_the_residual_stream():
    model = Stack(as_tuple=True)
    with steering_hooks(model.layers, plan_for(steered(0))):
        assert model.layers[0](torch.zeros(1, 3, WIDTH))[1] == "cache"


def test_every_row_gets_its_own_steering():
    model, h = Stack(), torch.randn(4, 3, WIDTH)
    rows = (steered(0), Steering.none(), steered(1, 2, strength=-1.0), steered(0, strength=0.0))
    with steering_hooks(model.layers, plan_for(*rows)):
        together = model(h)
    for row, steering in enumerate(rows):
        with steering_hooks(model.layers, plan_for(steering)):
            assert torch.equal(together[row], model(h[row : row + 1])[0])
    assert torch.equal(together[[1, 3]], model(h)[[1, 3]])


@pytest.mark.parametrize("scope", ["prompt", "all"])
@pytest.mark.parametrize("first", [True, False])
def test_several_vectors_are_summed_and_brought_to_length_once(scope, first):
    model, h = Stack(), torch.randn(1, 3, WIDTH)
    sideways = steered(0, strength=0.3, renormalise=first)
    sideways += steered(0, strength=0.4, scope=scope, renormalise=not first)
    with steering_hooks(model.layers, plan_for(sideways)), capture_block_outputs(model) as seen:
        model(h)
    expected = steer_hidden(h + 1, 0.7 * torch.tensor([0.0, 2.0, 0.0, 0.0]), True)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("scope", "places"),
    [
        ("all", [0, 1, 2, 3]),
        ("prompt", [0, 1]),
        ("generated", [1, 2, 3]),
        ("decision", [1, 2]),
        ("last_prompt", [1]),
    ],
)
def test_scopes_in_one_pass_over_prompt_and_answer(scope, places):
    model, h = Stack(), torch.zeros(1, 4, WIDTH)
    plan = plan_for(steered(0, scope=scope), tokens=4, last_prompt=1)
    with steering_hooks(model.layers, plan):
        changed = model(h)[0]
    assert (changed[:, 1] != changed[:, 0]).nonzero().flatten().tolist() == places
    assert plan.steered_tokens(0, plan.steerings[0].terms[0]) == len(places)


@pytest.mark.parametrize(
    ("scope", "passes"),
    [
        ("all", [3, 1, 1]),
        ("prompt", [3, 0, 0]),
        ("generated", [1, 1, 1]),
        ("decision", [1, 1, 0]),
        ("last_prompt", [1, 0, 0]),
    ],
)
def test_scopes_over_a_prompt_and_its_decoding(scope, passes):
    model, plan = Stack(), plan_for(steered(0, scope=scope))
    touched = []
    with steering_hooks(model.layers, plan):
        for width in (3, 1, 1):
            h = model(torch.zeros(1, width, WIDTH))
            touched.append(int((h[..., 1] != h[..., 0]).sum()))
    assert touched == passes
    assert plan.steered_tokens(0, plan.steerings[0].terms[0]) == sum(passes)


def test_decisions_of_several_vectors_end_where_each_of_them_does():
    model = Stack()
    early, late = steered(0, scope="decision"), steered(0, scope="decision")
    early.terms[0].vector.decision_tokens, late.terms[0].vector.decision_tokens = 0, 3
    plan = plan_for(early + late, late)
    with steering_hooks(model.layers, plan):
        passes = [model(torch.zeros(2, width, WIDTH)) for width in (3, 1, 2, 1)]
    added = torch.cat([h[..., 1] - h[..., 0] for h in passes], dim=1)
    assert added.tolist() == [[0, 0, 2, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0]]
    assert [plan.steered_tokens(0, term) for term in plan.steerings[0].terms] == [1, 4]


def test_padding_is_neither_changed_nor_counted():
    model, h = Stack(), torch.zeros(2, 3, WIDTH)
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    plan = SteeringPlan([steered(0), steered(0)], mask, last_prompt=2)
    with steering_hooks(model.layers, plan):
        changed = model(h)[..., 1] != 3.0
    assert changed.tolist() == mask.bool().tolist()
    term = plan.steerings[0].terms[0]
    assert [plan.steered_tokens(row, term) for row in range(2)] == [1, 3]


def test_a_finished_row_is_neither_changed_nor_counted():
    model, plan = Stack(), plan_for(steered(0), steered(0))
    with steering_hooks(model.layers, plan):
        model(torch.zeros(2, 3, WIDTH))
        plan.finish(0)
        h = model(torch.zeros(2, 1, WIDTH))
    assert h[0].tolist() == [[3.0, 3.0, 3.0, 3.0]]
    assert h[1].tolist() == [[3.0, 4.0, 3.0, 3.0]]
    assert [plan.steered_tokens(row, plan.steerings[row].terms[0]) for row in range(2)] == [3, 4]


def test_a_fork_of_a_plan_goes_on_by_itself():
    model, plan = Stack(), plan_for(steered(0), steered(0, scope="generated"))
    with steering_hooks(model.layers, plan):
        model(torch.zeros(2, 3, WIDTH))
    fork = plan.fork()
    fork.finish(0)
    with steering_hooks(model.layers, fork):
        model(torch.zeros(2, 1, WIDTH))

    def counts(of):
        return [of.steered_tokens(row, of.steerings[row].terms[0]) for row in range(2)]

    assert (counts(plan), counts(fork)) == ([3, 1], [3, 2])
    with steering_hooks(model.layers, plan):
        model(torch.zeros(2, 1, WIDTH))
    assert counts(plan) == [4, 2]


class Turned(Vector):
    """Planted as well, but its rule looks at the state."""

    application = Application(rule="icv")


terms = st.builds(
    lambda looks, layers, strength, scope, renormalise: Steering.of(
        (Turned if looks else Vector)(*layers), strength, scope=scope, renormalise=renormalise
    ),
    st.booleans(),
    st.sampled_from([(0,), (0, 1), (1,)]),
    st.sampled_from([0.3, -0.2]),
    st.sampled_from(SCOPES),
    st.booleans(),
)
mixtures = st.lists(terms, max_size=3).map(lambda parts: sum(parts, Steering.none()))


def slowly_steered(h, steering, layer, scopes):
    """One state: every term whose scope it is in adds its part, and the length is kept once."""
    present = [term for term in steering.terms_at(layer) if term.scope in scopes]
    if not present:
        return h
    delta = sum(term.delta_at(layer, h) for term in present)
    return steer_hidden(h[None, None], delta, any(t.renormalise for t in present))[0, 0]


@given(
    st.lists(st.tuples(mixtures, st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(["each its own", "all the same", "of one kind"]),
    st.sampled_from(["left", "right"]),
    st.integers(0, 1000),
)
@example(
    rows=[(steered(0, scope="last_prompt", renormalise=True), length, 3) for length in (3, 1)],
    widths=[], alike="all the same", padding="right", seed=0,
)  # fmt: skip
@example(
    rows=[(steered(0, scope="generated", renormalise=True), 2, 3)],
    widths=[1, 1, 2], alike="all the same", padding="left", seed=0,
)  # fmt: skip
@settings(max_examples=160)
def test_any_batch_is_steered_state_by_state(rows, widths, alike, padding, seed):
    """Rows: a steering, prompt tokens, passes before the row is finished."""
    if alike == "all the same":
        rows = [(rows[0][0], *others) for _, *others in rows]
    elif alike == "of one kind" and rows[0][0].terms:
        (kind, *_), others = rows[0][0].terms, [others for _, *others in rows]
        strengths = [0.1 * (1 + number) for number in range(len(rows))]
        kinds = [Steering((replace(kind, strength=each),)) for each in strengths]
        rows = [(each, *other) for each, other in zip(kinds, others, strict=True)]
    if padding == "right":  # prompts alone
        widths = []
    source, model = torch.Generator().manual_seed(seed), Stack()
    longest = max(length for _, length, _ in rows)
    pads = {
        "left": [[0] * (longest - n) + [1] * n for _, n, _ in rows],
        "right": [[1] * n + [0] * (longest - n) for _, n, _ in rows],
    }
    mask = torch.tensor(pads[padding])
    ends = [longest - 1 if padding == "left" else n - 1 for _, n, _ in rows]
    plan = SteeringPlan([steering for steering, *_ in rows], mask, ends)
    expected_counts: dict[tuple[int, int, str], int] = {}
    start = 0
    for number, width in enumerate([longest, *widths]):
        for row, (_, _, last) in enumerate(rows):
            if last == number - 1:
                plan.finish(row)
        h = torch.randn(len(rows), width, WIDTH, generator=source)
        with steering_hooks(model.layers, plan):
            steered = model(h)
        for row, (steering, length, last) in enumerate(rows):
            for column in range(width):
                at = start + column
                scopes: set[str] = set()
                end = ends[row]
                in_use = end - length < at and (padding == "left" or at <= end)
                if in_use and number <= last:
                    scopes |= {"all"} | ({"prompt"} if at <= end else set())
                    scopes |= {"generated"} if at >= end else set()
                    scopes |= {"last_prompt"} if at == end else set()
                    # The vectors' decisions are one token in.
                    scopes |= {"decision"} if at in (end, end + 1) else set()
                state = h[row, column]
                for layer in range(LAYERS):
                    state = slowly_steered(state + 1, steering, layer, scopes)
                    for scope in scopes:
                        key = row, layer, scope
                        expected_counts[key] = expected_counts.get(key, 0) + 1
                torch.testing.assert_close(steered[row, column], state, rtol=1e-4, atol=1e-5)
        start += width
    for row, (steering, *_) in enumerate(rows):
        for term in steering.active_terms:
            reached = [expected_counts.get((row, x, term.scope), 0) for x in term.steered_layers]
            if min(reached):
                assert plan.steered_tokens(row, term) == min(reached)


def of_one_scope(kinds, scope="generated", renormalise=True):
    """Steerings that differ in their layers and strengths."""
    return [
        Steering.of(Vector(*layers), strength, scope=scope, renormalise=renormalise)
        for layers, strength in kinds
    ]


class Partly(Vector):
    """Planted in its first layer, and nothing in the others."""

    def __init__(self, *layers: int) -> None:
        super().__init__(*layers)
        self.directions |= {layer: torch.zeros(WIDTH) for layer in layers[1:]}


KINDS = ([((0, 1), 0.3)], [((0, 1), 0.3), ((1, 2), 0.3)], [((0,), 0.3), ((0,), -0.5)])
of_some_kinds = st.builds(
    of_one_scope, st.sampled_from(KINDS), st.sampled_from(SCOPES), st.booleans()
)


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.lists(st.sampled_from(["join", "leave", "pass", "count"]), min_size=1, max_size=9),
    st.one_of(of_some_kinds, st.lists(mixtures, min_size=1, max_size=3)),
    st.integers(0, 1000),
)
@example([1, 2, 1], ["join", "pass", "leave", "join"], of_one_scope(KINDS[2]), 0)
@example([1, 2], ["join", "pass"], of_one_scope(KINDS[1]), 0)
@example([1, 2], ["join", "pass"], [Steering.of(Partly(0, 1), 0.3)], 0)
@example([1, 2], ["join", "pass"], [Steering.of(Vector(0), 0.3) + Steering.of(Turned(0), 0.3)], 0)
@example(
    [1, 2], ["join", "pass", "pass", "count"],
    [Steering.of(Vector(0), 0.3, scope=scope) for scope in ("generated", "all")], 0,
)  # fmt: skip
def test_rows_that_join_and_leave_are_steered_as_if_alone(prompts, events, kinds, seed):
    """Each prompt is read by itself; what was worked out for one row serves the next."""
    source, model, worked = torch.Generator().manual_seed(seed), Stack(), {}
    steerings = cycle(kinds)
    waiting, joined = list(prompts), []  # rows: plan, row in it, tokens of the answer, own plan
    together = None
    for event in ["join", "pass", *events, "pass", "pass", "count"]:
        if event == "join" and waiting:
            length = waiting.pop()
            mask, steering = torch.ones(1, length), next(steerings)
            own, read = (SteeringPlan([steering], mask, length - 1, worked=w) for w in ({}, worked))
            h = torch.randn(1, length, WIDTH, generator=source)
            made = []
            for plan in (own, read):
                with steering_hooks(model.layers, plan):
                    made.append(model(h))
            torch.testing.assert_close(*made)
            joined.append([read, 0, 0, own])
            together = None
        elif event == "leave" and len(joined) > 1:
            del joined[0]
            together = None
        elif event == "pass":
            if together is None:
                rows = [(plan, row, tokens + 1) for plan, row, tokens, _ in joined]
                together = SteeringPlan.side_by_side(rows, worked)
                for number, each in enumerate(joined):
                    each[:2] = together, number
            h = torch.randn(len(joined), 1, WIDTH, generator=source)
            with steering_hooks(model.layers, together):
                steered_rows = model(h)
            for number, each in enumerate(joined):
                with steering_hooks(model.layers, each[3]):
                    alone = model(h[number : number + 1])
                torch.testing.assert_close(steered_rows[number], alone[0])
                each[2] += 1
        # What is asked in between is worked out anew, and would never be gone on with.
        for plan, row, _, own in joined if event == "count" else ():
            for term in own.steerings[0].terms:
                assert plan.steered_tokens(row, term) == own.steered_tokens(0, term)


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 1), (torch.float32, 2)])
def test_rows_that_join_may_go_on_in_another_way(dtype, width):
    worked, steering = {}, steered(0, scope="generated", renormalise=True)

    def joined():
        read = SteeringPlan([steering], torch.ones(1, 1), 0, worked=worked)
        return SteeringPlan.side_by_side([(read, 0, 1)], worked)

    joined().apply(0, torch.ones(1, 1, WIDTH))
    h = torch.randn(1, width, WIDTH).to(dtype)
    found = joined().apply(0, h)
    assert found.dtype is dtype
    torch.testing.assert_close(found, steer_hidden(h, steering.terms[0].delta(0)))


def test_a_state_of_no_length_stays_one_where_nothing_is_added():
    nothing = Vector(0)
    nothing.directions = {0: torch.zeros(WIDTH)}
    plan = SteeringPlan([Steering.of(nothing, 0.5)], torch.ones(1, 1), 0)
    with steering_hooks(Stack().layers, plan) as plan:
        assert torch.equal(plan.apply(0, torch.zeros(1, 1, WIDTH)), torch.zeros(1, 1, WIDTH))
        assert torch.equal(plan.apply(0, torch.zeros(1, 1, WIDTH)), torch.zeros(1, 1, WIDTH))


def test_what_a_row_that_left_did_to_a_vision_tower_is_over():
    seeing = Vector(0)
    seeing.tower = {0: torch.ones(WIDTH)}
    both = plan_for(steered(0), Steering.of(seeing, 0.5, unit="absolute"))
    assert both.tower == [0]
    assert SteeringPlan.side_by_side([(both, 0, 1)]).tower == []
    assert SteeringPlan.side_by_side([(both, 1, 1)]).tower == [0]


def test_strength_zero_registers_nothing():
    model = Stack()
    with steering_hooks(model.layers, plan_for(steered(0, strength=0.0), Steering.none())):
        assert no_hooks(model)


def test_only_steered_layers_have_hooks():
    model = Stack()
    with steering_hooks(model.layers, plan_for(steered(1), steered(2))):
        assert [len(layer._forward_hooks) for layer in model.layers] == [0, 1, 1]
    assert no_hooks(model)


def test_no_hook_survives_an_exception():
    model = Stack()

    def fail(module, inputs):
        raise RuntimeError("out of memory")

    with model.layers[2].register_forward_pre_hook(fail), pytest.raises(RuntimeError):
        with steering_hooks(model.layers, plan_for(steered(0, 1))), capture_block_outputs(model):
            model(torch.zeros(1, 3, WIDTH))
    assert no_hooks(model)
    assert torch.equal(model(torch.zeros(1, 1, WIDTH)), torch.full((1, 1, WIDTH), 3.0))


def test_no_hook_survives_a_failed_registration():
    model = Stack()
    blocks = [model.layers[0], "not a module", model.layers[2]]
    with pytest.raises(AttributeError), steering_hooks(blocks, plan_for(steered(0, 1, 2))):
        pass
    assert no_hooks(model)


def test_two_threads_with_different_steerings_never_mix():
    model, start = Stack(), torch.zeros(1, 1, WIDTH)
    meeting = threading.Barrier(3)
    results: dict[float, list[float]] = {}

    def run(strength: float) -> None:
        plan = plan_for(steered(0, strength=strength), tokens=1)
        with steering_hooks(model.layers, plan):
            meeting.wait()  # all hooks of all threads are registered now
            results[strength] = [float(model(start)[0, 0, 1]) for _ in range(50)]
            meeting.wait()

    threads = [threading.Thread(target=run, args=(x,)) for x in (1.0, -1.0)]
    for thread in threads:
        thread.start()
    meeting.wait()
    unsteered = [float(model(start)[0, 0, 1]) for _ in range(50)]
    meeting.wait()
    for thread in threads:
        thread.join()
    assert results == {1.0: [5.0] * 50, -1.0: [1.0] * 50}
    assert unsteered == [3.0] * 50
    assert no_hooks(model)


@pytest.fixture
def hasty_threads():
    """Threads take turns as often as Python can, so that races show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_many_threads_that_register_at_once_each_keep_their_hook():
    model = Stack()
    failures: list[float] = []

    def run(strength: float) -> None:
        for _ in range(100):
            with steering_hooks(model.layers, plan_for(steered(0, strength=strength), tokens=1)):
                if float(model(torch.zeros(1, 1, WIDTH))[0, 0, 1]) != 3.0 + 2 * strength:
                    failures.append(strength)

    threads = [threading.Thread(target=run, args=(float(x),)) for x in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert no_hooks(model)


def test_only_the_innermost_steering_is_in_force():
    model, h = Stack(), torch.zeros(1, 1, WIDTH)
    with steering_hooks(model.layers, plan_for(steered(0, strength=5.0), tokens=1)):
        with steering_hooks(model.layers, plan_for(steered(0), tokens=1)):
            assert float(model(h)[0, 0, 1]) == 4.0
        with steering_hooks(model.layers, plan_for(Steering.none(), tokens=1)):
            assert float(model(h)[0, 0, 1]) == 3.0
        assert float(model(h)[0, 0, 1]) == 13.0


def test_a_steering_that_reaches_no_layer_is_an_error():
    model, plan = Stack(), plan_for(steered(0, 1))
    with steering_hooks(model.layers, plan):
        model.layers[0](torch.zeros(1, 3, WIDTH))  # layer 1 is never run
    with pytest.raises(SteeringNotAppliedError, match=r"layers \[1\]"):
        plan.steered_tokens(0, plan.steerings[0].terms[0])


def test_a_layer_that_the_model_lacks_is_refused_before_any_hook():
    model = Stack()
    with (
        pytest.raises(ModelMismatchError, match=r"layers \[7\].*blocks 0 to 2"),
        steering_hooks(model.layers, plan_for(steered(0, 7))),
    ):
        pass
    assert no_hooks(model)


def test_a_vector_of_another_width_is_refused():
    model = Stack()
    with pytest.raises(ModelMismatchError, match="width"):
        with steering_hooks(model.layers, plan_for(steered(0))):
            model(torch.zeros(1, 3, WIDTH + 1))
    assert no_hooks(model)


@pytest.mark.parametrize("as_tuple", [False, True], ids=["tensor", "tuple"])
def test_captured_outputs_are_the_raw_ones_with_their_gradients(as_tuple):
    model, h = Stack(as_tuple), torch.zeros(1, 2, WIDTH, requires_grad=True)
    with capture_block_outputs(model) as outputs:
        model(h)
    assert {i: float(x.detach().mean()) for i, x in outputs.items()} == {0: 1.0, 1: 2.0, 2: 3.0}
    (gradient,) = torch.autograd.grad(outputs[1].sum(), h)
    assert torch.equal(gradient, torch.ones_like(h))
    assert no_hooks(model)


def test_capturing_sees_only_its_own_thread():
    model = Stack()
    with capture_block_outputs(model.layers) as outputs:
        thread = threading.Thread(target=model, args=(torch.zeros(1, 1, WIDTH),))
        thread.start()
        thread.join()
        assert outputs == {}
        model(torch.zeros(1, 1, WIDTH))
        assert sorted(outputs) == [0, 1, 2]
