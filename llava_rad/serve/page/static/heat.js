// A sentence's attention as colours over the radiograph.

const LOW = [240, 228, 66];
const HIGH = [204, 51, 17];
const STRONGEST = 0.85;

/**
 * A canvas with one pixel a patch. An even share and less is clear; the most of the whole report
 * is the strongest colour, so that sentences can be compared.
 */
export function heatOf(grid, most) {
  const canvas = document.createElement("canvas");
  canvas.width = grid[0].length;
  canvas.height = grid.length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  grid.flat().forEach((value, place) => {
    const part = most > 1 ? Math.min(Math.max((value - 1) / (most - 1), 0), 1) : 0;
    LOW.forEach((low, channel) => {
      pixels.data[4 * place + channel] = low + (HIGH[channel] - low) * part;
    });
    pixels.data[4 * place + 3] = 255 * STRONGEST * part;
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}
