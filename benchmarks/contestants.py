"""Ways to find an image for a digit: this project's, its peers', and a yardstick.

Each is a function of a `Task`, the wanted digits (n,), starts (n, 28, 28, 1), the
number of steps, a seed and settings of its own. It returns images (n, 28, 28, 1) in
[0, 1]. A peer's package is imported when its function is called.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np


class Task(NamedTuple):
    """What every contestant is given.

    Attributes:
        homework: the notebook's functions.
        network: maps images to logits.
        prior: the notebook's Gaussian of all digits.
        digits: training images (k, 28, 28, 1), for methods that ask for a dataset.
        loops: compiled loops, so that each is compiled once a network.
    """

    homework: ModuleType
    network: Any
    prior: tuple
    digits: np.ndarray
    loops: dict[str, Callable]


def make_task(homework: ModuleType, network: Any) -> Task:
    """Return the task of one network."""
    digits = homework.load_mnist()[0]
    mean, covariance = homework.fit_gaussian(digits, 0.02)
    return Task(homework, network, (mean, np.linalg.inv(covariance)), digits, {})


def make_starts(
    homework: ModuleType, count: int, first_seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return wanted digits (count,), 0 to 9 in turn, and a random start for each."""
    starts = homework.random_images(first_seed + np.arange(count))
    return np.arange(count) % 10, starts


def find_images(
    task: Task, wanted: np.ndarray, starts: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    """The notebook's function with its own settings."""
    targets = np.eye(10)[wanted]
    homework, network, prior, *_ = task
    found = homework.find_images(network, prior, targets, starts, seed, steps=steps)
    return found["images"]


def bare_gradients(
    task: Task, wanted: np.ndarray, starts: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    """One compiled loop that only computes gradients by the images and follows them."""
    tf, error, network = task.homework.tf, task.homework.divergence, task.network
    if "bare" not in task.loops:

        @tf.function
        def loop(targets: tf.Tensor, images: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
            for _ in tf.range(steps):
                with tf.GradientTape() as tape:
                    tape.watch(images)
                    loss = error(targets, network(images, training=False))
                images = images - 0.01 * tape.gradient(loss, images)
            return images

        task.loops["bare"] = loop
    targets = tf.constant(np.eye(10)[wanted], tf.float32)
    return task.loops["bare"](targets, tf.constant(starts), tf.constant(steps)).numpy()


def tf_keras_vis(
    task: Task,
    wanted: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    adam: bool = False,
    rate: float = 0.05,
    variation: float = 1.0,
    norm: float = 0.3,
    jitter: int = 0,
    soft: bool = False,
) -> np.ndarray:
    """ActivationMaximization of tf-keras-vis (Kubota), all images in one call.

    Settings:
        adam: False for its defaults (RMSprop at rate 1, jitter, rotation, two
            regularizers), but with the pixels' range given as [0, 1]. True for Adam,
            clipping in every step, and the settings that follow.
        rate: of Adam.
        variation: weight of the total variation.
        norm: weight of the L1 norm.
        jitter: largest roll of the images, in pixels.
        soft: score the logarithm of the probability, with a function of our own.
    """
    from tf_keras_vis.activation_maximization import ActivationMaximization
    from tf_keras_vis.activation_maximization.input_modifiers import Jitter
    from tf_keras_vis.activation_maximization.regularizers import Norm, TotalVariation2D
    from tf_keras_vis.utils.scores import CategoricalScore

    homework = task.homework
    tf = homework.tf
    np.random.seed(seed)  # noqa: NPY002 - what the package draws from
    options: dict[str, Any] = {}
    score: Any = CategoricalScore([int(digit) for digit in wanted])
    if adam:
        views = [Jitter(jitter)] if jitter else []
        options["input_modifiers"] = [*views, lambda x: tf.clip_by_value(x, 0.0, 1.0)]
        options["regularizers"] = [TotalVariation2D(variation), Norm(norm, p=1)]
        options["optimizer"] = homework.keras.optimizers.Adam(rate)
    if soft:
        targets = tf.constant(np.eye(10)[wanted], tf.float32)

        def score(logits: tf.Tensor) -> tf.Tensor:
            return -homework.divergence(targets, logits)

    with warnings.catch_warnings():
        # it hands the model a list of one tensor, at which Keras 3 wonders aloud
        warnings.simplefilter("ignore")
        visualize = ActivationMaximization(task.network)
        found = visualize(
            score, seed_input=starts, input_range=(0.0, 1.0), steps=steps, **options
        )
    return np.clip(found, 0, 1)


def tf_keras_vis_single(
    task: Task, wanted: np.ndarray, starts: np.ndarray, *options: Any, **settings: Any
) -> np.ndarray:
    """The same, one image a call: what it does unless it is handed a batch."""
    pairs = zip(wanted[:, None], starts[:, None], strict=True)
    return np.concatenate(
        [tf_keras_vis(task, *pair, *options, **settings) for pair in pairs]
    )


def xplique(
    task: Task,
    wanted: np.ndarray,
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

    It draws its own starts, and is told to make images of the network's size.

    Settings:
        fourier: whether the pixels or the image's Fourier transform is optimized.
        rate: of Adam.
        views: its transformations: "standard", "jitter" or None.
        variation: factor of its total variation regularizer.
        ink: factor of its L1 regularizer.
    """
    from xplique.features_visualizations import Objective, optimize
    from xplique.features_visualizations.regularizers import l1_reg, total_variation_reg
    from xplique.features_visualizations.transformations import random_jitter

    tf = task.homework.tf
    tf.random.set_seed(seed)

    def jitter(images: tf.Tensor) -> tf.Tensor:
        return random_jitter(2)(tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]]))

    regularizers = [total_variation_reg(variation)] if variation else []
    regularizers += [l1_reg(ink)] if ink else []
    images = []
    for start in range(0, len(starts), 10):
        part = [int(digit) for digit in wanted[start : start + 10]]
        found, _ = optimize(
            Objective.neuron(task.network, -1, part),
            optimizer=task.homework.keras.optimizers.Adam(rate),
            nb_steps=steps,
            use_fft=fourier,
            regularizers=regularizers or None,
            transformations=jitter if views == "jitter" else views,
            custom_shape=None,
        )
        images.append(found[-1].numpy())
    return np.clip(np.concatenate(images), 0, 1)


def maco(
    task: Task,
    wanted: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 1.0,
    noise: float = 0.08,
    crops: int = 32,
) -> np.ndarray:
    """MaCo of Xplique (Fel et al., 2023), one image a call, of the network's size.

    Settings:
        rate: of Nadam.
        noise: standard deviation over the crops.
        crops: parts of the image seen in each step; 0 for the whole image.
    """
    from xplique.features_visualizations import Objective
    from xplique.features_visualizations import maco as optimize

    tf = task.homework.tf
    tf.random.set_seed(seed)
    dataset = tf.data.Dataset.from_tensor_slices(task.digits[:5_000]).batch(500)
    images = []
    for digit in wanted:
        found, _ = optimize(
            Objective.neuron(task.network, -1, int(digit)),
            optimizer=task.homework.keras.optimizers.Nadam(rate),
            maco_dataset=dataset,
            nb_steps=steps,
            noise_intensity=noise,
            nb_crops=crops,
            values_range=(0, 1),
            custom_shape=(28, 28),
        )
        images.append(found)
    return np.clip(images, 0, 1)


def miface(
    task: Task,
    wanted: np.ndarray,
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
    softmax = keras.layers.Softmax()(task.network.output)
    classifier = TensorFlowV2Classifier(
        keras.Model(task.network.inputs, softmax),
        nb_classes=10,
        input_shape=(28, 28, 1),
        loss_object=keras.losses.CategoricalCrossentropy(),
        clip_values=(0, 1),
    )
    images = np.empty_like(starts)
    for digit in np.unique(wanted):
        own = wanted == digit
        options = dict(max_iter=steps, learning_rate=rate, verbose=False)
        inversion = MIFace(classifier, batch_size=int(own.sum()), **options)
        images[own] = inversion.infer(starts[own], wanted[own])
    return images


def keras_io(
    task: Task,
    wanted: np.ndarray,
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
    tf, network = task.homework.tf, task.network
    if "keras.io" not in task.loops:

        @tf.function
        def take_step(
            image: tf.Tensor, digit: tf.Tensor, rate: tf.Tensor, clip: tf.Tensor
        ) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(image)
                loss = tf.reduce_mean(network(image)[:, digit])
            image += rate * tf.math.l2_normalize(tape.gradient(loss, image))
            return tf.where(clip, tf.clip_by_value(image, 0.0, 1.0), image)

        task.loops["keras.io"] = take_step
    images = []
    for start, digit in zip(starts, wanted, strict=True):
        image = tf.constant(0.5 + (start[None] - 0.5) / 4)
        options = tf.constant(int(digit)), tf.constant(rate), tf.constant(clip)
        for _ in range(steps):
            image = task.loops["keras.io"](image, *options)
        found = image.numpy()[0]
        if not clip:
            found = 0.5 + 0.15 * (found - found.mean()) / (found.std() + 1e-5)
        images.append(np.clip(found, 0, 1))
    return np.array(images)


def student(
    task: Task,
    wanted: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 1.0,
    together: bool = False,
) -> np.ndarray:
    """What most write first: one image at a time, eager, squared error, clipping.

    With `together` all images are one batch, which changes nothing but the time.
    """
    tf, network = task.homework.tf, task.network
    count = len(starts) if together else 1
    images = []
    for start in range(0, len(starts), count):
        image = tf.Variable(starts[start : start + count])
        targets = np.eye(10, dtype="float32")[wanted[start : start + count]]
        for _ in range(steps):
            with tf.GradientTape() as tape:
                probabilities = tf.nn.softmax(network(image))
                loss = tf.reduce_sum((probabilities - targets) ** 2)
            gradient = tape.gradient(loss, image)
            image.assign(tf.clip_by_value(image - rate * gradient, 0.0, 1.0))
        images.append(image.numpy())
    return np.concatenate(images)


class Contestant(NamedTuple):
    """A way to find images, with its settings.

    Attributes:
        run: finds the images that are judged.
        timed: finds images as a user would; its speed is measured.
        steps: by default.
        batch: how many images `timed` is given at a time.
        timed_steps: steps of a timed call; few where there is no start-up to spread.
        images: how many are made, of the same hundred starts.
        soft: whether a soft target can be asked for.
        defaults: settings by default.
        grid: settings to search among; empty if there is nothing to tune.
    """

    run: Callable
    timed: Callable
    steps: int
    batch: int = 1
    timed_steps: int = 50
    images: int = 100
    soft: str = "no"
    defaults: Mapping[str, Any] = MappingProxyType({})
    grid: Sequence[dict[str, Any]] = ()


def combine(**choices: Any) -> list[dict[str, Any]]:
    """Return every combination of settings; what is no tuple stays as it is."""
    lists = [x if isinstance(x, tuple) else (x,) for x in choices.values()]
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*lists)
    ]


OURS = "find_images"
TF_KERAS_VIS = "tf-keras-vis"
TOGETHER = "tf-keras-vis, 100 images a call"  # only timed
STUDENT = "student's loop"


def list_contestants(steps: int) -> dict[str, Contestant]:
    """Return all contestants by name; this project's, of so many steps, is the first.

    Weights of tf-keras-vis and Xplique around those that an earlier search found best.
    """
    visualize = combine(
        adam=True,
        rate=(0.02, 0.05, 0.1, 0.2),
        variation=(1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        norm=(0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        jitter=(0, 1, 2),
        soft=(False, True),
    )
    weights = dict(variation=(0.0, 0.001, 0.003, 0.01, 0.03), ink=(0.0, 0.1, 0.3, 1.0))
    views, rates = (None, "jitter"), (0.02, 0.05, 0.1, 0.2)
    pixels, transform = (
        combine(fourier=fourier, rate=rates, views=views, **weights)
        for fourier in (False, True)
    )
    loops = combine(rate=(0.1, 0.3, 0.5, 1.0), clip=True)
    return {
        OURS: Contestant(find_images, find_images, steps, batch=100, soft="yes"),
        TF_KERAS_VIS: Contestant(
            tf_keras_vis,
            tf_keras_vis_single,
            steps=200,
            timed_steps=12,
            soft="with a score function of one's own",
            grid=visualize,
        ),
        "Xplique, pixels": Contestant(
            xplique,
            xplique,
            steps=256,
            batch=10,
            defaults=dict(fourier=False),
            grid=pixels,
        ),
        "Xplique, Fourier": Contestant(
            xplique,
            xplique,
            steps=256,
            batch=10,
            defaults=dict(fourier=True),
            grid=transform,
        ),
        "Xplique, MaCo": Contestant(
            maco,
            maco,
            steps=256,
            images=30,
            grid=combine(crops=(0, 32), rate=(0.1, 1.0)),
        ),
        "ART MIFace": Contestant(
            miface,
            miface,
            steps,
            batch=10,
            timed_steps=12,
            grid=combine(rate=(1.0, 10.0, 100.0)),
        ),
        "keras.io loop": Contestant(
            keras_io,
            keras_io,
            steps=30,
            soft="by editing the loss",
            grid=[*loops, dict(rate=1.0)],
        ),
        STUDENT: Contestant(
            student,
            student,
            steps,
            timed_steps=12,
            soft="yes",
            defaults=dict(together=True),
            grid=combine(rate=(1.0, 10.0, 100.0), together=True),
        ),
    }
