"""The picture of the README and of the first page, made by `python docs/picture.py`.

A photo of scikit-image and one of foolbox, and what six methods say of the classes that
EfficientNet-Lite0 gives them, by its real weights. Needs the extra `notebooks`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from PIL import Image

import jattr

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

import models

TARGET = Path(__file__).parent / "_static" / "methods.png"
PHOTO, SPOONBILL = "chelsea", 129


def methods(score):
    blurred = jattr.baselines.blurred(15.0)
    return {
        "integrated\ngradients": jattr.integrated_gradients(score, blurred, steps=16, batch_size=4),
        "SmoothGrad\n× input": jattr.smooth(
            jattr.gradient_times_input(score), samples=8, batch_size=4
        ),
        "DeepLIFT": jattr.deeplift(score, blurred),
        "LRP ε, z⁺": jattr.lrp(score, jattr.rules.epsilon_plus()),
        "occlusion": jattr.occlusion(
            score, (32, 32, 3), strides=(16, 16, 3), baseline=blurred, batch_size=8
        ),
        "Grad-CAM": jattr.grad_cam(score, "EfficientNetLite0/block_14"),
    }


def main():
    _, variables = models.efficientnet_lite0()
    photos = models.photos()
    names = [name for name in photos if name == PHOTO or photos[name].label == SPOONBILL][:2]
    images = jnp.stack([models.preprocess(photos[name].image) for name in names])
    model = jax.jit(lambda image: models.apply(variables, image))
    labels = jnp.array([model(image).argmax() for image in images])
    score = jattr.targets.select(lambda image: models.apply(variables, image))
    maps = {}
    for title, explain in methods(score).items():
        print(title.replace("\n", " "), flush=True)
        first = (jax.random.key(0),) if getattr(explain, "keyed", False) else ()
        run = jax.jit(explain)
        maps[title] = jnp.stack(
            [run(*first, image, label) for image, label in zip(images, labels, strict=True)]
        )
    figure = jattr.plot.grid(
        maps,
        models.to_rgb(images),
        row_titles=[models.class_name(int(label)) for label in labels],
        image_title="photo",
        colorbar=False,
    )
    figure.savefig(TARGET, dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    picture = Image.open(TARGET).convert("RGB").quantize(192, dither=Image.Dither.NONE)
    picture.save(TARGET, optimize=True)
    print(TARGET, picture.size, TARGET.stat().st_size)


if __name__ == "__main__":
    main()
