/* HEM, MM and CE of one position, as hemspec/reference has them: tests/docs compares the two. */
"use strict";

const losses = {
  /* How far each rival comes inside the margin; 0 at the true class. */
  errors(z, y, margin) {
    return z.map((zj, j) => (j === y ? 0 : Math.max(0, zj - z[y] + margin)));
  },

  /* Which errors are not below the mean error: distances from the largest, so that a tie stays a tie. */
  kept(errors) {
    const largest = Math.max(...errors);
    const shortfall = errors.map((e) => largest - e);
    const sum = shortfall.reduce((a, b) => a + b, 0);
    return errors.map((e, j) => e > 0 && errors.length * shortfall[j] <= sum);
  },

  hem(z, y, margin) {
    const errors = losses.errors(z, y, margin);
    const kept = losses.kept(errors);
    const size = kept.filter(Boolean).length;
    const total = errors.reduce((sum, e, j) => sum + (kept[j] ? e : 0), 0);
    const gradient = kept.map((keep) => (keep ? 1 / size : 0));
    gradient[y] = size ? -1 : 0;
    return {
      errors,
      kept,
      mean: errors.reduce((a, b) => a + b, 0) / errors.length,
      value: size ? total / size : 0,
      gradient,
    };
  },

  multiMargin(z, y, margin) {
    const errors = losses.errors(z, y, margin);
    const gradient = errors.map((e) => (e > 0 ? 1 / z.length : 0));
    gradient[y] = -errors.filter((e) => e > 0).length / z.length;
    return { value: errors.reduce((a, b) => a + b, 0) / z.length, gradient };
  },

  crossEntropy(z, y) {
    const largest = Math.max(...z);
    const exponentials = z.map((zj) => Math.exp(zj - largest));
    const sum = exponentials.reduce((a, b) => a + b, 0);
    const gradient = exponentials.map((e, j) => e / sum - (j === y ? 1 : 0));
    return { value: Math.log(sum) - (z[y] - largest), gradient };
  },
};

if (typeof module !== "undefined") module.exports = losses;
