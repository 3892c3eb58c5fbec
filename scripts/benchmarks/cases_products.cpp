// Dense products of a layer, each with its two gradients where they are of another form.
#include "scripts/benchmarks/kernel_cases.h"

namespace jambalaya::bench {

void add_products(CaseList& list) {
  const auto& [D, E, N, R, H, G, C, F, X, K, V, parameters, cached] = list.w;
  const int64_t T = list.T;
  list.product("in_proj", T, 2 * E, D);
  list.input_gradient("in_proj", T, 2 * E, D);
  list.weight_gradient("in_proj", T, 2 * E, D);
  list.product("x_proj", T, R + 2 * N, E, DType::bf16, DType::f32);
  list.input_gradient("x_proj", T, R + 2 * N, E);
  list.weight_gradient("x_proj", T, R + 2 * N, E);
  list.product("dt_proj", T, E, R);
  list.input_gradient("dt_proj", T, E, R);
  list.weight_gradient("dt_proj", T, E, R);
  list.product("out_proj", T, D, E);
  list.input_gradient("out_proj", T, D, E);
  list.weight_gradient("out_proj", T, D, E);
  list.product("q_proj", T, H * C, D);
  list.product("k_proj or v_proj", T, G * C, D);
  list.input_gradient("k_proj or v_proj", T, G * C, D);
  list.weight_gradient("k_proj or v_proj", T, G * C, D);
  list.product("o_proj", T, D, H * C);
  list.input_gradient("o_proj", T, D, H * C);
  list.weight_gradient("o_proj", T, D, H * C);
  list.product("mlp gate and up", T, 2 * F, D);
  list.input_gradient("mlp gate and up", T, 2 * F, D);
  list.weight_gradient("mlp gate and up", T, 2 * F, D);
  list.product("mlp down", T, D, F);
  list.input_gradient("mlp down", T, D, F);
  list.weight_gradient("mlp down", T, D, F);
  list.product("router product fp32", T, X, D, DType::f32, DType::f32);
}

}  // namespace jambalaya::bench
