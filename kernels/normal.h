// Elementary functions for starting values, in double precision with plain additions and multiplications in a
// written order: libm's versions differ between machines and devices, these give the same bits everywhere
// (fused multiply-adds are switched off for the whole build). Relative error below 1e-13.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/philox.h"

namespace jambalaya::portable {

/// Natural logarithm of x > 0: x = m 2^e with m in [0.70, 1.41), then 2 artanh((m - 1) / (m + 1)).
inline double log(double x) {
  int e = 0;
  double m = std::frexp(x, &e);
  if (m < 0.70710678118654752) m = m * 2, e--;
  double q = (m - 1) / (m + 1), q2 = q * q, term = q, sum = 0;
  for (int k = 1; k < 22; k += 2) sum = sum + term / k, term = term * q2;
  return 2 * sum + e * 0.69314718055994530942;
}

/// e^x for |x| < 700: x = n ln 2 + r, Taylor series of e^r.
inline double exp(double x) {
  double n = std::floor(x * 1.4426950408889634 + 0.5), r = x - n * 0.69314718055994530942;
  double term = 1, sum = 1;
  for (int k = 1; k < 18; k++) term = term * r / k, sum = sum + term;
  return std::ldexp(sum, int(n));
}

/// e^x - 1 for small |x| (here: step sizes up to 1), without cancellation.
inline double expm1(double x) {
  double term = 1, sum = 0;
  for (int k = 1; k < 24; k++) term = term * x / k, sum = sum + term;
  return sum;
}

/// cos(2 pi u) and sin(2 pi u) for u in [0, 1): Taylor series on the nearest quarter turn.
inline void cos_sin_turns(double u, double& cosine, double& sine) {
  int quarter = int(u * 4 + 0.5);
  double x = (u - quarter * 0.25) * 6.28318530717958647692, x2 = x * x;
  double c = 1, s = x, tc = 1, ts = x;
  for (int k = 1; k < 10; k++) {
    tc = -(tc * x2) / ((2 * k - 1) * (2 * k));
    ts = -(ts * x2) / ((2 * k) * (2 * k + 1));
    c = c + tc;
    s = s + ts;
  }
  switch (quarter & 3) {
    case 0:
      cosine = c, sine = s;
      break;
    case 1:
      cosine = -s, sine = c;
      break;
    case 2:
      cosine = -c, sine = -s;
      break;
    default:
      cosine = s, sine = -c;
      break;
  }
}

/// Four standard normal numbers: elements 4b .. 4b+3 of the stream `key` (Box and Muller 1958).
inline void normal_block(uint64_t key, uint64_t block, double out[4]) {
  PhiloxBlock bits = philox(key, block);
  for (int pair = 0; pair < 2; pair++) {
    double u = (bits[size_t(2 * pair)] + 0.5) * 0x1p-32, angle = bits[size_t(2 * pair + 1)] * 0x1p-32;
    double radius = std::sqrt(-2 * log(u)), c, s;
    cos_sin_turns(angle, c, s);
    out[2 * pair] = radius * c;
    out[2 * pair + 1] = radius * s;
  }
}

}  // namespace jambalaya::portable
