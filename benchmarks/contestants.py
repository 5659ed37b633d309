"""Ways to find an image for a digit: this project's, its peers', and two yardsticks.

Each is a function of a `Task`, the wanted digits (n,), starts (n, 28, 28, 1), the
number of steps, a seed and settings of its own. It returns images (n, 28, 28, 1) in
[0, 1]. A peer's package is imported when its function is called.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class Task(NamedTuple):
    """What every contestant is given.

    Attributes:
        homework: the notebook's functions.
        model: maps images to logits.
        typical: statistics of the training digits, from `measure_digits`.
        digits: (k, 28, 28, 1) training images, for methods that ask for a dataset.
    """

    homework: ModuleType
    model: Any
    typical: np.ndarray
    digits: np.ndarray


def optimize_images(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    noise: float = 1.0,
    rate: float = 1.0,
    prior: float = 1.0,
) -> np.ndarray:
    """The notebook's function; its own settings, each times a factor."""
    homework = task.homework
    return homework.optimize_images(
        task.model,
        homework.one_hot(labels),
        starts,
        typical=task.typical,
        weights=np.multiply(homework.PRIOR_WEIGHTS, prior),
        steps=steps,
        rate=rate * homework.PIXEL_RATE,
        noise=noise * homework.VIEW_NOISE,
        shift=homework.SHIFT,
        settling_share=homework.SETTLING_SHARE,
        seed=seed,
    ).images


def bare_gradients(
    task: Task, labels: np.ndarray, starts: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    """One compiled loop that only computes gradients by the images and follows them."""
    del seed
    if task.model not in _bare_loops:
        _bare_loops[task.model] = _make_bare_loop(task)
    goals = task.homework.one_hot(labels)
    return _bare_loops[task.model](goals, starts, steps).numpy()


_bare_loops: dict[Any, Callable] = {}


def _make_bare_loop(task: Task) -> Callable:
    """Compile the loop of `bare_gradients` for one model."""
    import tensorflow as tf

    divergence, model = task.homework.divergence, task.model

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, task.homework.CLASSES)),
            tf.TensorSpec((None, *task.homework.IMAGE_SHAPE)),
            tf.TensorSpec((), tf.int32),
        ]
    )
    def loop(goals: tf.Tensor, images: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = divergence(goals, model(images, training=False))
            images = images - 0.01 * tape.gradient(loss, images)
        return images

    return loop


def tf_keras_vis(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    tuned: bool = False,
    rate: float = 0.05,
    variation: float = 1.0,
    norm: float = 0.3,
    jitter: int = 0,
    soft: bool = False,
) -> np.ndarray:
    """ActivationMaximization of tf-keras-vis (Kubota).

    Settings:
        tuned: False for its defaults (RMSprop at rate 1, jitter, rotation, two
            regularizers), but with the pixels' range given as [0, 1]. True for Adam,
            clipping in every step, and the settings that follow.
        rate: of Adam.
        variation: weight of the total variation.
        norm: weight of the L1 norm.
        jitter: largest roll of the images, in pixels.
        soft: score the logarithm of the probability, with a function of our own.
    """
    import tensorflow as tf
    from tf_keras_vis.activation_maximization import ActivationMaximization
    from tf_keras_vis.activation_maximization.input_modifiers import Jitter
    from tf_keras_vis.activation_maximization.regularizers import Norm, TotalVariation2D
    from tf_keras_vis.utils.scores import CategoricalScore

    np.random.seed(seed)  # noqa: NPY002 - what the package draws from
    options: dict[str, Any] = {}
    score = CategoricalScore([int(label) for label in labels])
    if tuned:
        views = [Jitter(jitter)] if jitter else []
        options["input_modifiers"] = [*views, lambda x: tf.clip_by_value(x, 0.0, 1.0)]
        options["regularizers"] = [TotalVariation2D(variation), Norm(norm, p=1)]
        options["optimizer"] = task.homework.keras.optimizers.Adam(rate)
    if soft:
        goals = task.homework.one_hot(labels)

        def score(logits: tf.Tensor) -> tf.Tensor:
            return -task.homework.divergence(goals, logits)

    with warnings.catch_warnings():
        # it hands the model a list of one tensor, at which Keras 3 wonders aloud
        warnings.simplefilter("ignore")
        visualize = ActivationMaximization(task.model)
        found = visualize(
            score, seed_input=starts, input_range=(0.0, 1.0), steps=steps, **options
        )
    return np.clip(found, 0, 1)


def tf_keras_vis_single(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    **settings: Any,
) -> np.ndarray:
    """The same, one image a call: what it does unless it is handed a batch."""
    one = [
        tf_keras_vis(
            task, labels[i : i + 1], starts[i : i + 1], steps, seed, **settings
        )
        for i in range(len(labels))
    ]
    return np.concatenate(one)


def xplique(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    fourier: bool,
    rate: float = 0.05,
    views: str | None = "standard",
    variation: float = 0.0,
    ink: float = 0.0,
) -> np.ndarray:
    """Feature visualization of Xplique (Fel et al., 2022), ten images a call.

    It draws its own starts, and is told to make images of the model's size.

    Settings:
        fourier: whether the pixels or the image's Fourier transform is optimized.
        rate: of Adam.
        views: its transformations: "standard", "jitter" or None.
        variation: factor of its total variation regularizer.
        ink: factor of its L1 regularizer.
    """
    import tensorflow as tf
    from xplique.features_visualizations import Objective, optimize
    from xplique.features_visualizations.regularizers import l1_reg, total_variation_reg
    from xplique.features_visualizations.transformations import random_jitter

    tf.random.set_seed(seed)
    images = []
    for start in range(0, len(starts), 10):
        part = [int(label) for label in labels[start : start + 10]]
        objective = Objective.neuron(task.model, -1, part)
        regularizers = [total_variation_reg(variation)] if variation else []
        regularizers += [l1_reg(ink)] if ink else []
        if views == "jitter":
            transformations: Any = lambda x: random_jitter(2)(  # noqa: E731
                tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
            )
        else:
            transformations = views
        found, _ = optimize(
            objective,
            optimizer=task.homework.keras.optimizers.Adam(rate),
            nb_steps=steps,
            use_fft=fourier,
            regularizers=regularizers or None,
            transformations=transformations,
            custom_shape=None,
        )
        images.append(found[-1].numpy())
    return np.concatenate(images)


def maco(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 1.0,
    noise: float = 0.08,
    crops: int = 32,
) -> np.ndarray:
    """MaCo of Xplique (Fel et al., 2023), one image a call, of the model's size.

    Settings:
        rate: of Nadam.
        noise: standard deviation over the crops.
        crops: parts of the image seen in each step; 0 for the whole image.
    """
    import tensorflow as tf
    from xplique.features_visualizations import Objective
    from xplique.features_visualizations import maco as optimize

    del starts
    tf.random.set_seed(seed)
    dataset = tf.data.Dataset.from_tensor_slices(task.digits[:5000]).batch(500)
    images = []
    for label in labels:
        found, _ = optimize(
            Objective.neuron(task.model, -1, int(label)),
            optimizer=task.homework.keras.optimizers.Nadam(rate),
            maco_dataset=dataset,
            nb_steps=steps,
            noise_intensity=noise,
            nb_crops=crops,
            values_range=(0, 1),
            custom_shape=task.homework.IMAGE_SHAPE[:2],
        )
        images.append(found)
    return np.clip(images, 0, 1)


def miface(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 0.1,
) -> np.ndarray:
    """Model inversion of Fredrikson et al. (2015) in ART, the images of a digit a call.

    Calls with one digit spare it gradients of digits that nobody asked for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that PyTorch is missing
        from art.attacks.inference.model_inversion import MIFace
        from art.estimators.classification import TensorFlowV2Classifier
    logging.getLogger("art").setLevel(logging.ERROR)
    keras = task.homework.keras
    softmax = keras.layers.Softmax()(task.model.output)
    classifier = TensorFlowV2Classifier(
        keras.Model(task.model.inputs, softmax),
        nb_classes=task.homework.CLASSES,
        input_shape=task.homework.IMAGE_SHAPE,
        loss_object=keras.losses.CategoricalCrossentropy(),
        clip_values=(0, 1),
    )
    del seed
    images = np.empty_like(starts)
    for label in np.unique(labels):
        own = labels == label
        inversion = MIFace(
            classifier,
            max_iter=steps,
            learning_rate=rate,
            batch_size=int(own.sum()),
            verbose=False,
        )
        images[own] = inversion.infer(starts[own], labels[own])
    return images


def keras_io(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 10.0,
    clip: bool = False,
) -> np.ndarray:
    """The loop of keras.io's "Visualizing what convnets learn" (Chollet, 2020).

    One image at a time: gradient ascent on the mean activation of a unit, here the
    wanted logit, with normalized gradients, from noise within an eighth of gray; at the
    end the image is set to mean 0.5 and deviation 0.15 and clipped.

    Settings:
        rate: step length, L2 over the image.
        clip: keep the image in [0, 1] instead of setting its mean and deviation.
    """
    import tensorflow as tf

    del seed
    if task.model not in _keras_io_steps:

        @tf.function
        def step(
            image: tf.Tensor, label: tf.Tensor, rate: tf.Tensor, clip: tf.Tensor
        ) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(image)
                loss = tf.reduce_mean(task.model(image)[:, label])
            image += rate * tf.math.l2_normalize(tape.gradient(loss, image))
            return tf.where(clip, tf.clip_by_value(image, 0.0, 1.0), image)

        _keras_io_steps[task.model] = step
    images = []
    for start, label in zip(starts, labels, strict=True):
        image = tf.constant(0.5 + (start[np.newaxis] - 0.5) / 4)
        options = tf.constant(int(label)), tf.constant(rate), tf.constant(clip)
        for _ in range(steps):
            image = _keras_io_steps[task.model](image, *options)
        found = image.numpy()[0]
        if not clip:
            found = 0.5 + 0.15 * (found - found.mean()) / (found.std() + 1e-5)
        images.append(np.clip(found, 0, 1))
    return np.array(images)


_keras_io_steps: dict[Any, Callable] = {}


def student(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 1.0,
) -> np.ndarray:
    """What most write first: one image at a time, eager, squared error, clipping."""
    import tensorflow as tf

    del seed
    images = []
    goals = task.homework.one_hot(labels)
    for start, goal in zip(starts, goals, strict=True):
        image = tf.Variable(start[np.newaxis])
        for _ in range(steps):
            with tf.GradientTape() as tape:
                probabilities = tf.nn.softmax(task.model(image))
                loss = tf.reduce_sum((probabilities - goal) ** 2)
            gradient = tape.gradient(loss, image)
            image.assign(tf.clip_by_value(image - rate * gradient, 0.0, 1.0))
        images.append(image.numpy()[0])
    return np.array(images)


def student_together(
    task: Task,
    labels: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 1.0,
) -> np.ndarray:
    """The arithmetic of `student` for all images at once: its images, sooner."""
    del seed
    goals = task.homework.one_hot(labels)
    return task.homework.naive_descent(task.model, goals, starts, steps, rate).images


class Contestant(NamedTuple):
    """A way to find images, with its settings.

    Attributes:
        run: finds the images that are judged.
        timed: finds images as a user would; its speed is measured.
        images: how many `timed` is given at a time.
        seeds: runs for each digit; fewer where a run takes long.
        steps: by default.
        soft: whether a soft target can be asked for.
        defaults: settings by default.
        grid: settings that are tried for the tuned one.
    """

    run: Callable
    timed: Callable
    images: int
    seeds: int
    steps: int
    soft: str
    defaults: dict[str, Any]
    grid: list[dict[str, Any]]


def list_contestants(homework: ModuleType) -> dict[str, Contestant]:
    """Return all contestants by name; this project's is the first."""
    tuned = dict(tuned=True)
    grids = {
        "optimize_images": [dict(), dict(noise=1.5), dict(prior=3.0), dict(rate=2.0)],
        "tf-keras-vis": [
            tuned | dict(variation=10.0, norm=3.0),
            tuned | dict(variation=100.0, norm=30.0),
            tuned | dict(variation=100.0, norm=30.0, jitter=2),
            tuned | dict(variation=10.0, norm=3.0, soft=True),
            tuned | dict(variation=3.0, norm=1.0, soft=True),
        ],
        "Xplique": [
            dict(views=None),
            dict(views=None, variation=0.003, ink=0.3),
            dict(views="jitter"),
            dict(views="jitter", variation=0.003, ink=0.3),
        ],
        "MaCo": [dict(crops=0, rate=1.0), dict(crops=0, rate=0.1)],
        "MIFace": [dict(rate=1.0), dict(rate=10.0)],
        "keras.io": [
            dict(rate=0.1, clip=True),
            dict(rate=0.5, clip=True),
            dict(rate=1.0),
        ],
        "student": [dict(rate=1.0), dict(rate=10.0), dict(rate=100.0)],
    }
    steps = homework.OPTIMIZATION_STEPS
    own = "with a score function of one's own"
    xplique_forms = {
        f"Xplique, {name}": Contestant(
            run=xplique,
            timed=xplique,
            images=10,
            seeds=2,
            steps=256,
            soft="no",
            defaults=form,
            grid=[form | settings for settings in grids["Xplique"]],
        )
        for name, form in (
            ("pixels", dict(fourier=False)),
            ("Fourier", dict(fourier=True)),
        )
    }

    def make(
        grid: str, run: Callable, timed: Callable, numbers: tuple[int, ...], soft: str
    ) -> Contestant:
        """Name images, seeds and steps once; the package's own settings by default."""
        return Contestant(run, timed, *numbers, soft, {}, grids[grid])

    ours, visualize, loop = optimize_images, tf_keras_vis, student_together
    return {
        "optimize_images": make("optimize_images", ours, ours, (100, 10, steps), "yes"),
        "tf-keras-vis": make(
            "tf-keras-vis", visualize, tf_keras_vis_single, (1, 5, 200), own
        ),
        **xplique_forms,
        "Xplique, MaCo": make("MaCo", maco, maco, (1, 1, 256), "no"),
        "ART MIFace": make("MIFace", miface, miface, (10, 1, steps), "no"),
        "keras.io loop": make(
            "keras.io", keras_io, keras_io, (1, 2, 30), "by editing the loss"
        ),
        "student's loop": make("student", loop, student, (1, 10, steps), "yes"),
    }
