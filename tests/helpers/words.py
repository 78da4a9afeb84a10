"""The words that made-up reports consist of."""

# fmt: off
WORDS = [
    "no", "pleural", "effusion", "or", "pneumothorax", "the", "heart", "is", "normal", "in",
    "size", "lungs", "are", "clear", "there", "small", "left", "right", "large", "opacity", "acute",
]
# fmt: on
