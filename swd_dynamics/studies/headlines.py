"""What each study found, in one sentence: the list of studies on a page of figures and on the command line.

The claim of a study is what was tested. These sentences say how the tests ended.
"""

HEADLINES: dict[str, str] = {
    "update-rules": (
        "Each optimizer takes the steps of its own rule, up to rounding, and of none of the other rules that are"
        " compared (12 in all), unless two names stand for the same method."
    ),
    "decay-rate": (
        "Of Adam's three decays only stable decay keeps R/η_eff at λ, where η_eff = η/√v̄ is one number for all weights."
    ),
    "fixed-points": (
        "AdamW clips weights that have exact gradients at 1/λ, and shrinks weights that have noisy ones. Only"
        " Adam with L2 keeps the same fraction of all weights that have the same curvature."
    ),
    "modified-equation": (
        "The derived flows follow the runs to first and second order. With momentum, decay in the"
        " second-order term is (1+β)/(1−β) times as strong with L2 as with stable decay."
    ),
    "two-limits": (
        "Over a time of 0.5, with torch's default β₂ = 0.999, runs of AdamW of 64 steps and more are ten times"
        " nearer to the flow of weights and memory than to the modified equation. At the edge of stability that"
        " flow fails."
    ),
    "stability": (
        "Runs survive up to the derived limit and no further. L2 allows larger learning rates than stable"
        " decay with the same λ."
    ),
    "stability-chart": (
        "Momentum raises the largest stable learning rate with L2 and decoupled decay. With stable decay it"
        " does so only up to a peak, 4/(√h + √λ)², and then the limit falls to 0."
    ),
    "edge-of-stability": (
        "Ten optimizers sharpen one small tanh network until the largest curvature, in the mean over time, is within"
        " 3 % of the limit that is derived from their step. (On another task that of Adam with β₁ = 0.9 is 5 to 10 %"
        " below: see central-flow.)"
        " The oscillation itself need not settle (see settled-oscillation). From a predicted R/η_eff on, weight decay"
        " keeps the curvature of heavy ball below the limit."
    ),
    "central-flow": (
        "At the edge of stability runs follow a slow flow that is derived from the step, decay included: with Adam"
        " they end at least 80 times nearer to it than to a flow without oscillation where β₁ = 0, and 11 times where"
        " β₁ = 0.9. What decay does there depends on R/η_eff alone (tested with SGD)."
    ),
    "settled-oscillation": (
        "Whether the oscillation at the edge settles or comes in bursts follows from the roots of one derived equation."
        " On one orbit heavy ball with L2 bursts from β = 0.42 on and Nesterov's momentum only from 0.83 on. On another"
        " orbit, with weaker decay, heavy ball with L2 bursts from 0.36 on. In the mean over time the largest curvature"
        " can be at the limit all the same (see edge-of-stability)."
    ),
    "sharpness-under-schedules": (
        "At the edge of stability a falling learning rate leaves the sharpness of SGD behind. With β₁ = 0 that of Adam"
        " and AdamW follows the rising limit, and AdamS overshoots by up to 12 %, but none rises by more than v can"
        " fade. Warm-up pushes SGD's sharpness down, where it"
        " stays without decay."
    ),
    "stationary-noise": (
        "Noisy gradients scatter weights with the variance that follows from the step. At SGD's stability"
        " limit it diverges. Adam trains on, because its second moment grows with the scatter."
    ),
    "equilibrium": (
        "Noise and decay give normalised weights a norm ‖θ‖ and a relative step ‖Δθ‖/‖θ‖ that follow from the"
        " rule: with 26 optimizers in noise, within the 0.5 to 2 % that are allowed. On digits, where a tenth is"
        " allowed, seven of eight optimizers follow the rule, and Lion's norm does not."
    ),
    "end-of-training": (
        "As η falls, ‖g‖/‖θ‖ of a normalised layer rises with SGDW, AdamW and, less than with AdamW, AdamS, but"
        " not with AdamC. Without normalisation it changes by less than a third."
    ),
    "dead-weights": (
        "With Adam and L2, λ does not matter for a weight without gradient: any λ from 1e-5 to 1 halves it in the"
        " same number of steps, a little more than |θ|/(2η). Long after it has vanished, a large λ can bring it back."
    ),
    "drop-in": (
        "If λ is translated, AdamS has the mean decay rate of AdamW, and shrinks the weights about as much. With"
        " AdamW's own λ it decays 70 times too fast."
    ),
    "transformer": (
        "While a transformer trains, R/η_eff changes by a factor of at least 1.5 after the warm-up with AdamW, and"
        " stays at λ with AdamS."
    ),
    "gpu": (
        "The rules reproduce 48 runs recorded on a GPU, in float64, float32 and bfloat16. In each of these"
        " arithmetics an error of λ of 1 % is more than rounding can explain (tested in 44 of the runs)."
    ),
    "lost-decay": (
        "In bfloat16 a decay rate R below 2⁻⁹ = 0.002 is lost where decay is rounded apart from the update: torch's"
        " foreach and single-tensor kernels train exactly as with λ = 0. The fused kernel rounds both together, and"
        " keeps the decay where updates are large enough."
    ),
    "memory-of-updates": (
        "Weights remember 1/R steps only at a constant learning rate. Where it falls to 0 linearly, four"
        " times a large λ only halves the memory."
    ),
    "lr-decay-coupling": (
        "Where η is constant, the best λ of AdamW falls as 1/η, and that of SGDW is nearer to 1/η than to no change."
        " Where η falls to 0, the best λ is nearer to no change than to 1/η (not decided with AdamS)."
    ),
    "gradient-norm": (
        "At rest the gradient of a weight is R/η_eff times the weight within 2 % (AdamW with one λ: 8 %), with the"
        " η_eff of each weight, so a larger λ ends with a larger gradient. AdamS does not end with a smaller one than"
        " AdamW."
    ),
    "width": (
        "From width 32 to 512 the best λ of AdamW grows as 1/√v̄ does, within the factor of 2 that is allowed. Which"
        " number can be kept while only η is tuned again is not decided."
    ),
    "optimizer-table": (
        "None of the paper's claims on test errors is confirmed on two small tasks. One of eight comparisons goes"
        " against AdamS, and ten seeds do not decide the other seven."
    ),
    "sgd-generalization": (
        "On MNIST-1D AdamS does not close half of the gap between the test errors of Adam and SGD. On digits"
        " Adam is not worse than SGD."
    ),
    "learning-curves": (
        "Under step and cosine schedules stable decay ends with a smaller test error in none of six comparisons."
        " With Adam its test error is larger than that of L2 under both schedules. The other four comparisons are"
        " not decided."
    ),
    "batch-size": (
        "The largest λ that costs at most 1 percentage point of test error grows with the batch size, so it does not"
        " keep R/η_eff constant. Whether it keeps R times the number of steps constant is not decided. Because √v̄"
        " rises slightly with the batch size here, and does not fall as 1/√B, AdamS is not predicted to need the"
        " smaller change of λ."
    ),
}
