"""Ways to find an image for a digit: this project's, its peers', and a yardstick.

Each is a function of a `Task`, the wanted digits (n,), starts (n, 28, 28, 1), the
number of steps, a seed and settings of its own. It returns images (n, 28, 28, 1) in
[0, 1], and makes as many in one call as its package can. A peer's package is imported
when its function is called.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Task(NamedTuple):
    """What every contestant is given.

    Attributes:
        homework: the notebook's functions.
        network: maps images to logits.
        prior: the notebook's Gaussian of all digits.
        digits: training images (k, 28, 28, 1), for methods that ask for a dataset.
    """

    homework: ModuleType
    network: Any
    prior: tuple
    digits: np.ndarray


def find_images(
    task: Task, wanted: np.ndarray, starts: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    """The notebook's function with its own settings."""
    find = task.homework.find_images
    return find(task.network, task.prior, np.eye(10)[wanted], starts, seed, steps)[
        "images"
    ]


@tf.function(reduce_retracing=True, jit_compile=False)
def take_bare_step(network: Any, targets: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Return images that followed the gradient of the fit a little way."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = network(images, training=False)
        loss = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    return images - 0.01 * tape.gradient(loss, images)


def bare_gradients(
    task: Task, wanted: np.ndarray, starts: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    """A compiled step that only computes gradients by the images and follows them."""
    targets, images = tf.constant(np.eye(10)[wanted], tf.float32), tf.constant(starts)
    for _ in range(steps):
        images = take_bare_step(task.network, targets, images)
    return images.numpy()


def tf_keras_vis(
    task: Task,
    wanted: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    optimizer: str | None = None,
    rate: float = 0.05,
    variation: float = 1.0,
    norm: float = 0.3,
    jitter: int = 0,
    soft: bool = False,
) -> np.ndarray:
    """ActivationMaximization of tf-keras-vis (Kubota).

    Settings:
        optimizer: None for its defaults (RMSprop at rate 1, jitter, rotation, two
            regularizers), but with the pixels' range given as [0, 1]. Else Keras's
            optimizer of that name, clipping in every step, and what follows.
        rate: of the optimizer.
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
    np.random.seed(seed)  # noqa: NPY002 - what the package draws from
    options: dict[str, Any] = {}
    score: Any = CategoricalScore([int(digit) for digit in wanted])
    if optimizer:
        views = [Jitter(jitter)] if jitter else []
        options["input_modifiers"] = [*views, lambda x: tf.clip_by_value(x, 0.0, 1.0)]
        options["regularizers"] = [TotalVariation2D(variation), Norm(norm, p=1)]
        optimizers = homework.keras.optimizers
        options["optimizer"] = optimizers.get({"class_name": optimizer, "config": {}})
        options["optimizer"].learning_rate = rate
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
    """Feature visualization of Xplique (Fel et al., 2022).

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

    tf.random.set_seed(seed)

    def jitter(images: tf.Tensor) -> tf.Tensor:
        return random_jitter(2)(tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]]))

    regularizers = [total_variation_reg(variation)] if variation else []
    regularizers += [l1_reg(ink)] if ink else []
    found, _ = optimize(
        Objective.neuron(task.network, -1, [int(digit) for digit in wanted]),
        optimizer=task.homework.keras.optimizers.Adam(rate),
        nb_steps=steps,
        use_fft=fourier,
        regularizers=regularizers or None,
        transformations=jitter if views == "jitter" else views,
        custom_shape=None,
    )
    return np.clip(found[-1].numpy(), 0, 1)


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
    """MaCo of Xplique (Fel et al., 2023), one image at a time, of the network's size.

    Settings:
        rate: of Nadam.
        noise: standard deviation over the crops.
        crops: parts of the image seen in each step; 0 for the whole image.
    """
    from xplique.features_visualizations import Objective
    from xplique.features_visualizations import maco as optimize

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
    threshold: float = 0.99,
) -> np.ndarray:
    """Model inversion of Fredrikson et al. (2015) in ART, the images of a digit a call.

    Calls with one digit spare it gradients of digits that nobody asked for.

    Settings:
        rate: of its steps.
        threshold: a cost, 1 less the probability, above which an image stands still.
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
        options = dict(max_iter=steps, learning_rate=rate, threshold=threshold)
        options |= dict(batch_size=int(own.sum()), verbose=False)
        inversion = MIFace(classifier, **options)
        images[own] = inversion.infer(starts[own], wanted[own])
    return images


@tf.function(reduce_retracing=True, jit_compile=False)
def take_keras_io_step(
    network: Any, images: tf.Tensor, targets: tf.Tensor, rate: tf.Tensor
) -> tf.Tensor:
    """Return images one step of so much length up the wanted logits."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(targets * network(images, training=False))
    gradient = tape.gradient(loss, images)
    return images + rate * tf.math.l2_normalize(gradient, axis=(1, 2, 3))


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

    Gradient ascent on a unit, here the wanted logit, with normalized gradients, from
    noise within an eighth of gray; at the end the image is set to mean 0.5 and
    deviation 0.15 and clipped. The original makes one image at a time.

    Settings:
        rate: step length, L2 over the image.
        clip: keep the image in [0, 1] instead of setting its mean and deviation.
    """
    images = tf.constant(0.5 + (starts - 0.5) / 4)
    options = tf.constant(np.eye(10)[wanted], tf.float32), tf.constant(rate)
    for _ in range(steps):
        images = take_keras_io_step(task.network, images, *options)
        images = tf.clip_by_value(images, 0.0, 1.0) if clip else images
    images = images.numpy()
    if not clip:
        images -= images.mean(axis=(1, 2, 3), keepdims=True)
        images *= 0.15 / (images.std(axis=(1, 2, 3), keepdims=True) + 1e-5)
        images += 0.5
    return np.clip(images, 0, 1)


def student(
    task: Task,
    wanted: np.ndarray,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    rate: float = 1.0,
) -> np.ndarray:
    """What most write first: a loop that is not compiled, squared error, clipping."""
    image, targets = tf.Variable(starts), np.eye(10, dtype="float32")[wanted]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            probabilities = tf.nn.softmax(task.network(image))
            loss = tf.reduce_sum((probabilities - targets) ** 2)
        gradient = tape.gradient(loss, image)
        image.assign(tf.clip_by_value(image - rate * gradient, 0.0, 1.0))
    return image.numpy()


class Contestant(NamedTuple):
    """A way to find images.

    Attributes:
        run: the function.
        steps: by default; when tuned, as many as ours.
        grid: for each setting the values to search among.
        soft: whether a soft target can be asked for.
        images: how many are made, of the same hundred starts.
    """

    run: Callable
    steps: int = 200
    grid: dict[str, tuple] = {}  # noqa: RUF012 - nothing changes it
    soft: str = "no"
    images: int = 100


def combine(grid: dict[str, tuple]) -> list[dict[str, Any]]:
    """Return every combination of settings."""
    return [dict(zip(grid, x, strict=True)) for x in itertools.product(*grid.values())]


RATES = 0.02, 0.05, 0.1, 0.2, 0.4, 0.8
LENGTHS = 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0
PENALTIES = 0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0
VARIATIONS = 0.0, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1
XPLIQUE = {"rate": RATES, "views": (None, "jitter", "standard")}
XPLIQUE |= {"variation": VARIATIONS, "ink": PENALTIES}
VISUALIZE = {"optimizer": ("adam", "rmsprop"), "rate": RATES, "norm": PENALTIES}
VISUALIZE |= {"variation": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0)}
VISUALIZE |= {"jitter": (0, 1, 2, 3), "soft": (False, True)}
MACO = {"crops": (0, 8, 32), "noise": (0.0, 0.02, 0.08, 0.3)}
MACO |= {"rate": (0.03, 0.1, 0.3, 1.0)}
KERAS_IO = {"rate": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), "clip": (False, True)}
MIFACE = {"rate": LENGTHS, "threshold": (0.99, 1.0)}
PIXELS, FOURIER = (partial(xplique, fourier=fourier) for fourier in (False, True))
OURS = "find_images"
CONTESTANTS = {
    OURS: Contestant(find_images, soft="yes"),
    "tf-keras-vis": Contestant(
        tf_keras_vis, 200, VISUALIZE, "with a score of one's own"
    ),
    "Xplique, pixels": Contestant(PIXELS, 256, XPLIQUE),
    "Xplique, Fourier": Contestant(FOURIER, 256, XPLIQUE),
    "Xplique, MaCo": Contestant(maco, 256, MACO, images=30),
    "ART MIFace": Contestant(miface, 200, MIFACE),
    "keras.io loop": Contestant(keras_io, 30, KERAS_IO, "by editing the loss"),
    "student's loop": Contestant(student, 200, {"rate": LENGTHS}, "yes"),
}
