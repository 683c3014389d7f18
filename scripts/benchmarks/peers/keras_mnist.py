"""The reference experiment in Keras on its JAX backend: `python keras_mnist.py [EPOCHS [RUNS]]`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import mnist_idx

(x, y), (x_test, y_test) = (
    (images.astype("float32") / 255, labels) for images, labels in mnist_idx.load()
)
for seed in range(mnist_idx.runs()):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        x, y, batch_size=128, epochs=mnist_idx.epochs(), validation_data=(x_test, y_test), verbose=2
    )
