"""Ways to train a network on MNIST: the notebook's, and three that others published."""

from __future__ import annotations

import contextlib
import io
import math
import time
from types import ModuleType
from typing import Any

import numpy as np

OURS, KERAS_IO, DEOTTE, RESIDUAL = "the notebook", "keras.io", "Deotte", "ttdoucet"
EPOCHS = {KERAS_IO: 15, DEOTTE: 45, RESIDUAL: 10}  # as published
BATCH = {OURS: 128, KERAS_IO: 128, DEOTTE: 64, RESIDUAL: 100}
PARTS = {  # what is left out, and how `train_network` is told
    "without distortion": {"distortion": 0.0},
    "without blots": {"blots": 0.0},
    "without any noise": {"gaussian": None},
}
BUDGETS = 100, 200, 400, 800, 1_600  # processor seconds
READINGS = 25, 50, 100, 150, 200, 300, 400, 600, 800, 1_200, 1_600


def make_clock(homework: ModuleType, validation: tuple, budget: float) -> Any:
    """Return a callback that notes how well a training reads as time goes by.

    Its `curve` holds mark, processor seconds, steps and validation accuracy, noted
    when one of READINGS has passed and at the end; validation does not count. After
    the budget, in seconds, the training stops.
    """
    images, targets = validation

    class Clock(homework.keras.callbacks.Callback):
        before = 0.0  # seconds of what was prepared before `fit`

        def on_train_begin(self, logs: dict | None = None) -> None:
            self.curve, self.steps, self.paused = [], 0, 0.0
            self.marks = [mark for mark in READINGS if mark <= budget]
            self.begin = time.process_time() - self.before

        def seconds(self) -> float:
            return time.process_time() - self.begin - self.paused

        def on_test_begin(self, logs: dict | None = None) -> None:
            self.stopped = self.seconds()

        def on_test_end(self, logs: dict | None = None) -> None:
            self.paused += self.seconds() - self.stopped

        def note(self, mark: float) -> None:
            self.on_test_begin()
            answers = self.model.predict(images, batch_size=500, verbose=0)
            right = np.mean(answers.argmax(axis=1) == targets.argmax(axis=1))
            row = [mark, round(self.stopped, 1), self.steps, round(float(right), 4)]
            self.curve.append(row)
            self.on_test_end()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            self.steps, seconds = self.steps + 1, self.seconds()
            while self.marks and seconds >= self.marks[0]:
                self.note(self.marks.pop(0))
            self.model.stop_training |= seconds >= budget

        def on_train_end(self, logs: dict | None = None) -> None:
            if self.marks:
                self.note(round(self.seconds(), 1))

    return Clock()


def build_simple(homework: ModuleType) -> Any:
    """Return the network of keras.io's "Simple MNIST convnet" (Chollet, 2015)."""
    keras, layers = homework.keras, homework.layers
    stack = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
    return keras.Sequential(
        [*stack, layers.Flatten(), layers.Dropout(0.5), layers.Dense(10)]
    )


def build_deotte(homework: ModuleType) -> Any:
    """Return the network of Deotte's "25 Million Images! [0.99757] MNIST" (2018)."""
    keras, layers = homework.keras, homework.layers
    stack = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        for size, stride in ((3, 1), (3, 1), (5, 2)):
            padding = "same" if stride == 2 else "valid"
            options = dict(padding=padding, activation="relu")
            stack += [layers.Conv2D(filters, size, stride, **options)]
            stack += [layers.BatchNormalization()]
        stack += [layers.Dropout(0.4)]
    stack += [layers.Conv2D(128, 4, activation="relu"), layers.BatchNormalization()]
    stack += [layers.Flatten(), layers.Dropout(0.4), layers.Dense(10)]
    return keras.Sequential(stack)


def build_residual(homework: ModuleType) -> Any:
    """Return the network of ttdoucet's "MNIST 99.82" (2020).

    It reads the middle 25 × 25 pixels, enlarged and standardized. Its first weights are
    drawn as PyTorch does.
    """
    keras, layers = homework.keras, homework.layers
    first = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")

    def normalize(x: Any) -> Any:
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def convolve(x: Any, filters: int, size: int = 3) -> Any:
        options = dict(padding="same", activation="relu", kernel_initializer=first)
        return layers.Conv2D(filters, size, **options)(x)

    def add_residual(x: Any) -> Any:
        x = normalize(x)
        return layers.Add()([x, convolve(x, x.shape[-1])])

    inputs = keras.Input((28, 28, 1))
    x = layers.Resizing(28, 28)(layers.CenterCrop(25, 25)(inputs))
    x = layers.Lambda(homework.tf.image.per_image_standardization)(x)
    x = add_residual(convolve(x, 128, 5))
    x = add_residual(layers.MaxPooling2D()(x))
    for filters, padding in ((256, "valid"), (512, "same")):
        x = layers.MaxPooling2D(padding=padding)(convolve(normalize(x), filters))
        x = add_residual(x)
    x = layers.GlobalAveragePooling2D()(normalize(x))
    return keras.Model(inputs, layers.Dense(10, kernel_initializer=first)(x))


def make_batches(homework: ModuleType, name: str, training: tuple) -> Any:
    """Return endless batches for a peer, with its augmentation.

    Deotte's: 10 degrees, 10 % zoom and shift; ttdoucet's: 10 degrees and shifts of 1.5
    pixels, which is where its crops of 25 × 25 may lie, without elastic distortion.
    """
    layers, tf = homework.layers, homework.tf
    views = {
        KERAS_IO: [],
        DEOTTE: [
            layers.RandomRotation(10 / 360, fill_mode="nearest"),
            layers.RandomZoom(0.1, 0.1, fill_mode="nearest"),
            layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        ],
        RESIDUAL: [
            layers.RandomTranslation(1.5 / 28, 1.5 / 28, fill_mode="constant"),
            layers.RandomRotation(10 / 360, fill_mode="constant"),
        ],
    }[name]
    data = tf.data.Dataset.from_tensor_slices(training)
    data = data.shuffle(len(training[0])).repeat().batch(BATCH[name])
    for view in views:
        data = data.map(lambda x, y, view=view: (view(x, training=True), y))
    return data.prefetch(2)


def follow_cycle(optimizer: Any, past: float) -> None:
    """Set rate and momentum as ttdoucet does after this share of a training.

    The rate rises to its largest value at 0.3 and falls, the momentum falls and stays,
    both along a cosine.
    """
    part = int(past > 0.3)
    way = min((past - 0.3) / 0.7, 1) if part else past / 0.3
    way = (1 - math.cos(math.pi * way)) / 2
    for variable, values in (
        (optimizer.learning_rate, (5e-5, 4e-4, 1.6e-5)),
        (optimizer.beta_1, (0.95, 0.6, 0.6)),
    ):
        variable.assign((1 - way) * values[part] + way * values[part + 1])


def train_peer(
    homework: ModuleType, name: str, training: tuple, epochs: int, seed: int, clock: Any
) -> Any:
    """Return a peer's network, trained as published until its epochs or time are over.

    ttdoucet's cycle takes its epochs or its time, what ends first.
    """
    keras = homework.keras
    keras.utils.set_random_seed(seed)
    builders = {KERAS_IO: build_simple, DEOTTE: build_deotte, RESIDUAL: build_residual}
    network, callbacks = builders[name](homework), [clock]
    steps = math.ceil(len(training[0]) / BATCH[name])
    optimizer = keras.optimizers.Adam(1e-3)
    if name == DEOTTE:
        schedule = keras.optimizers.schedules.ExponentialDecay
        optimizer = keras.optimizers.Adam(schedule(1e-3, steps, 0.95, staircase=True))
    if name == RESIDUAL:
        optimizer = keras.optimizers.Adam(beta_2=0.99, epsilon=1e-8)
        optimizer.beta_1 = keras.Variable(0.95, trainable=False)

        def follow(batch: int, logs: dict | None = None) -> None:
            past = max(clock.steps / steps / epochs, clock.seconds() / BUDGETS[-1])
            follow_cycle(optimizer, past)

        callbacks += [keras.callbacks.LambdaCallback(on_train_batch_begin=follow)]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(optimizer, loss, jit_compile=False)
    options = dict(epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    batches = make_batches(homework, name, training)
    network.fit(batches, callbacks=callbacks, **options)
    return network


def train_ours(
    homework: ModuleType, name: str, training: tuple, epochs: int, seed: int, clock: Any
) -> Any:
    """Return the notebook's network, trained by its function, whole or without a part.

    The clock reads the validation images; `fit` is given a single one.
    """
    begin = time.process_time()
    options = {"gaussian": homework.make_gaussian(training[0])} | PARTS.get(name, {})
    clock.before = time.process_time() - begin
    one = tuple(x[:1] for x in training)
    with contextlib.redirect_stdout(io.StringIO()):
        return homework.train_network(
            training, one, epochs, seed=seed, callbacks=(clock,), **options
        )
