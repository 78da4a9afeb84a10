"""pydicom's decoder of JPEG by libjpeg-turbo: 8 to 16 bits, with and without loss.

libjpeg-turbo comes with imagecodecs. Of the decoders that pydicom knows by itself, GDCM's and
Pillow's refuse 12 bits and pylibjpeg's is under the GPL.
"""

from pydicom.pixels.decoders import base
from pydicom.uid import UID, JPEGTransferSyntaxes

NAME = "libjpeg-turbo"

#: What pydicom names where a decoder is absent.
DECODER_DEPENDENCIES = {syntax: ("imagecodecs",) for syntax in JPEGTransferSyntaxes}


def register(decoder: base.Decoder) -> None:
    """Make libjpeg-turbo one of a decoder's plugins, as :data:`NAME`."""
    if NAME not in decoder.available_plugins:
        decoder.add_plugin(NAME, (__name__, "decode_frame"))


def is_available(syntax: str) -> bool:
    """Whether a transfer syntax can be decoded, which pydicom asks."""
    return UID(syntax) in JPEGTransferSyntaxes


def decode_frame(frame: bytes, runner: base.DecodeRunner) -> bytes:
    """Decode a stream; channels are given as they are stored.

    Raises:
        ValueError: its values do not fit the bits that the header gives them.
    """
    import imagecodecs  # dozens of codecs, which an image in another format does not wait for

    # Without the name of a color space on both sides, YCbCr would be made RGB.
    space = "RGB" if runner.samples_per_pixel == 3 else None
    values = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    if 8 * values.dtype.itemsize > runner.bits_allocated:
        raise ValueError(f"samples of {values.dtype}, {runner.bits_allocated} bits allocated")
    runner.set_option("planar_configuration", 0)
    return bytes(values.astype(f"<u{runner.bits_allocated // 8}", copy=False).tobytes())
