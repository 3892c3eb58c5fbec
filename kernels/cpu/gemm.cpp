// Matrix products. A call is a list of products (one, or one per expert) that is worked off in two rounds of
// chunks: pack all of B, then compute tiles of C, each packing its own rows of A. What is cut where depends
// on shapes alone, and every element of C is one chain of additions in the order of K, so threads change
// neither cuts nor bits. Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.
#include <algorithm>
#include <atomic>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/op_checks.h"

namespace jambalaya {

namespace {

constexpr int64_t kBlockLanes = 384;  // of K: a block of A and a panel of B stay in the L2 and L1 caches
constexpr int64_t kTileRows = 252;    // largest tile of C
constexpr int64_t kTileColumns = 1024;
constexpr int64_t kTilesWanted = 12;    // so that a few threads finish together
constexpr int64_t kTileWork = 500'000;  // multiply-adds below which another tile is not worth its hand-over
constexpr int64_t kPackedBudget = 8 << 20;    // floats of packed B at a time (32 MiB)
constexpr int64_t kPackColumns = 256;         // of B in one chunk of packing
constexpr int64_t kDirectElements = 1 << 16;  // of B in one chunk of a product of a few rows
constexpr int64_t kDirectGroupedRows = 32;    // rows of all experts up to which none of them packs B

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// c[m, n] (+)= op(a) op(b), and how it is cut.
struct Product {
  Tensor a, b, c;
  bool transpose_a, transpose_b, accumulate;
  int64_t m, n, k;

  bool direct = false;  ///< a few rows: B is read as it lies
  int64_t lanes = 0, block_lanes = 0, k_blocks = 1;
  int64_t tile_rows = 0, tile_columns = 0, row_tiles = 0, column_tiles = 0;
  int64_t pack_groups = 0;
  float* packed_b = nullptr;  ///< [K block][panel][lane][nr]
  int64_t first_pack = 0, first_tile = 0;

  int64_t tiles() const { return row_tiles * column_tiles; }
  int64_t packs() const { return direct ? 0 : pack_groups * k_blocks; }
  int64_t lanes_of(int64_t block) const { return std::min(block_lanes, lanes - block * block_lanes); }
  /// Elements of K before `block`.
  int64_t k_begin(const GemmFormat& f, int64_t block) const {
    return block * block_lanes / f.step_lanes * f.k_step;
  }
  int64_t k_of(const GemmFormat& f, int64_t block) const {
    return std::max<int64_t>(0, std::min(k, k_begin(f, block + 1)) - k_begin(f, block));
  }
  int64_t packed_b_floats(const GemmFormat& f) const { return direct ? 0 : lanes * round_up(n, f.nr); }
};

void cut_direct(Product& p) {
  p.row_tiles = 1;
  p.tile_rows = p.m;
  // Narrow cuts of B as it lies in [k, n] would leave the processor's prefetching no rows to follow.
  const int64_t narrowest = p.transpose_b ? 16 : 256;
  p.tile_columns = std::max(narrowest, round_up(kDirectElements / std::max<int64_t>(p.k, 1), 16));
  p.column_tiles = ceil_div(p.n, p.tile_columns);
}

void cut_packed(const GemmFormat& f, Product& p) {
  p.lanes = ceil_div(p.k, f.k_step) * f.step_lanes;
  p.k_blocks = std::max<int64_t>(1, ceil_div(p.lanes, kBlockLanes));
  p.block_lanes = round_up(ceil_div(p.lanes, p.k_blocks), f.step_lanes);
  if (p.block_lanes) p.k_blocks = std::max<int64_t>(1, ceil_div(p.lanes, p.block_lanes));
  p.pack_groups = ceil_div(p.n, kPackColumns);
  p.row_tiles = ceil_div(p.m, kTileRows / f.mr * f.mr);
  p.column_tiles = ceil_div(p.n, kTileColumns);
  const int64_t wanted = std::clamp<int64_t>(p.m * p.n / 1024 * p.k / (kTileWork / 1024), 1, kTilesWanted);
  auto even = [](int64_t n, int64_t parts, int64_t unit) { return round_up(ceil_div(n, parts), unit); };
  // More column tiles pack A more often; but packing narrow pieces of a transposed A wastes its cache lines
  // and pages.
  const int64_t fewest_rows = (p.transpose_a ? 16 : 8) * f.mr;
  while (p.tiles() < wanted) {
    if (even(p.m, p.row_tiles, f.mr) > fewest_rows)
      p.row_tiles++;
    else if (even(p.n, p.column_tiles, f.nr) > 4 * f.nr)
      p.column_tiles++;
    else
      break;
  }
  p.tile_rows = even(p.m, p.row_tiles, f.mr);
  p.tile_columns = even(p.n, p.column_tiles, f.nr);
  p.row_tiles = ceil_div(p.m, p.tile_rows);
  p.column_tiles = ceil_div(p.n, p.tile_columns);
}

/// Scratch memory of the tiles being computed: as many slots as threads, so that they stay in the caches.
class Slots {
 public:
  Slots(Arena& scratch, int64_t threads, int64_t floats)
      : count_(std::min<int64_t>(threads, 64)), floats_(round_up(floats, 16)) {
    memory_ = scratch.array<float>(count_ * floats_, "gemm tiles");
    free_ = count_ == 64 ? ~uint64_t(0) : (uint64_t(1) << count_) - 1;
  }
  int64_t claim() {
    for (uint64_t free = free_.load();;) {
      if (!free) {
        free = free_.load();
        continue;
      }
      if (free_.compare_exchange_weak(free, free & (free - 1))) return __builtin_ctzll(free);
    }
  }
  void give_back(int64_t slot) { free_.fetch_or(uint64_t(1) << slot); }
  float* memory(int64_t slot) const { return memory_ + slot * floats_; }

 private:
  int64_t count_, floats_;
  float* memory_;
  std::atomic<uint64_t> free_;
};

int64_t packed_a_floats(const GemmFormat& f, const Product& p) {
  return ceil_div(p.tile_rows, f.mr) * packed_a_panel(p.block_lanes, f.mr);
}
/// A bf16 C keeps its sums in fp32 until the last block of K.
bool needs_partial(const Product& p) { return !p.direct && p.c.dtype == DType::bf16 && p.k_blocks > 1; }
int64_t slot_floats(const GemmFormat& f, const Product& p) {
  if (p.direct) return p.transpose_b ? 0 : p.m * p.tile_columns;
  return packed_a_floats(f, p) + (needs_partial(p) ? p.tile_rows * p.tile_columns : 0);
}

void pack_b(const GemmFormat& f, const Product& p, int64_t chunk) {
  const int64_t block = chunk / p.pack_groups, column = chunk % p.pack_groups * kPackColumns;
  const int64_t k = p.k_begin(f, block), lanes = p.lanes_of(block);
  PackBlock pack{};
  pack.source = p.b.address(p.transpose_b ? column * p.b.row_stride + k : k * p.b.row_stride + column);
  pack.stride = p.b.row_stride;
  pack.k_contiguous = p.transpose_b;
  pack.rows = std::min(kPackColumns, p.n - column);
  pack.k = p.k_of(f, block);
  pack.lanes = lanes;
  pack.packed = p.packed_b + block * p.block_lanes * round_up(p.n, f.nr) + column * lanes;
  f.pack_b(pack);
}

void compute_direct(const GemmFormat& f, const Product& p, int64_t chunk, float* slot) {
  const int64_t column = chunk * p.tile_columns;
  DirectProduct d{};
  d.a = p.a.data;
  d.a_stride = p.a.row_stride;
  d.b = p.b.address(p.transpose_b ? column * p.b.row_stride : column);
  d.b_stride = p.b.row_stride;
  d.c = p.c.address(column);
  d.c_stride = p.c.row_stride;
  d.c_bf16 = p.c.dtype == DType::bf16;
  d.accumulate = p.accumulate;
  d.m = p.m;
  d.n = std::min(p.tile_columns, p.n - column);
  d.k = p.k;
  d.sums = slot;
  d.sums_stride = p.tile_columns;
  (p.transpose_b ? f.dot_rows : f.add_rows)(d);
}

void compute_tile(const GemmFormat& f, const Product& p, int64_t chunk, float* slot) {
  const int64_t row = chunk % p.row_tiles * p.tile_rows, column = chunk / p.row_tiles * p.tile_columns;
  const int64_t at = row * p.c.row_stride + column;
  const bool bf16_c = p.c.dtype == DType::bf16;
  float* partial = needs_partial(p) ? slot + packed_a_floats(f, p) : nullptr;
  for (int64_t block = 0; block < p.k_blocks; block++) {
    const int64_t k = p.k_begin(f, block), lanes = p.lanes_of(block);
    PackBlock pack{};
    pack.source = p.a.address(p.transpose_a ? k * p.a.row_stride + row : row * p.a.row_stride + k);
    pack.stride = p.a.row_stride;
    pack.k_contiguous = !p.transpose_a;
    pack.rows = std::min(p.tile_rows, p.m - row);
    pack.k = p.k_of(f, block);
    pack.lanes = lanes;
    pack.packed = slot;
    f.pack_a(pack);
    GemmBlock g{};
    g.a = slot;
    g.b = p.packed_b + block * p.block_lanes * round_up(p.n, f.nr) + column * lanes;
    g.lanes = lanes;
    g.rows = pack.rows;
    g.columns = std::min(p.tile_columns, p.n - column);
    g.c = bf16_c ? partial : p.c.ptr<float>() + at;
    g.c_stride = bf16_c ? p.tile_columns : p.c.row_stride;
    g.add = block > 0 || (p.accumulate && !bf16_c);
    if (bf16_c && block + 1 == p.k_blocks) {
      g.out = p.c.ptr<bf16>() + at;
      g.out_stride = p.c.row_stride;
      g.add_out = p.accumulate;
    }
    f.block(g);
  }
}

/// Products whose packed B fits in the budget together.
void multiply_group(Context& ctx, const GemmFormat& f, Product* products, int64_t count) {
  ArenaScope scope(*ctx.scratch);
  int64_t packs = 0, tiles = 0, floats = 0, packed = 0;
  for (Product* p = products; p < products + count; p++) {
    p->first_pack = packs;
    p->first_tile = tiles;
    packs += p->packs();
    tiles += p->tiles();
    packed += p->packed_b_floats(f);
    floats = std::max(floats, slot_floats(f, *p));
  }
  float* b = packs ? ctx.scratch->array<float>(packed, "gemm packed") : nullptr;
  for (Product* p = products; p < products + count; p++) {
    p->packed_b = b;
    b += p->packed_b_floats(f);
  }
  Slots slots(*ctx.scratch, std::min<int64_t>(ctx.pool->size(), tiles), floats);
  ctx.pool->run(packs, [&](int64_t chunk) {
    const Product* p = products;
    while (chunk >= p->first_pack + p->packs()) p++;
    pack_b(f, *p, chunk - p->first_pack);
  });
  ctx.pool->run(tiles, [&](int64_t chunk) {
    const Product* p = products;
    while (chunk >= p->first_tile + p->tiles()) p++;
    const int64_t slot = slots.claim();
    (p->direct ? compute_direct : compute_tile)(f, *p, chunk - p->first_tile, slots.memory(slot));
    slots.give_back(slot);
  });
}

/// Columns of B that fit in the budget when packed.
int64_t slice_columns(const GemmFormat& f, const Product& p) {
  if (p.direct) return p.n;
  const int64_t lanes = std::max<int64_t>(1, ceil_div(p.k, f.k_step) * f.step_lanes);
  return std::max<int64_t>(1, kPackedBudget / lanes / f.nr) * f.nr;
}

/// The products of one call, in scratch memory, cut into slices of columns where B is large.
class ProductList {
 public:
  ProductList(Context& ctx, const GemmFormat& format, int64_t capacity)
      : ctx_(ctx),
        format_(format),
        products_(ctx.scratch->array<Product>(capacity, "gemm list")),
        capacity_(capacity) {}
  static int64_t slices(const GemmFormat& f, const Product& p) {
    return p.m && p.n ? ceil_div(p.n, slice_columns(f, p)) : 0;
  }
  void add(const Product& whole) {
    if (!whole.m || !whole.n) return;
    const int64_t columns = slice_columns(format_, whole);
    for (int64_t begin = 0; begin < whole.n; begin += columns) {
      const int64_t end = std::min(whole.n, begin + columns);
      JAMBALAYA_CHECK(count_ < capacity_);
      Product& p = *new (&products_[count_++]) Product(whole);
      p.b = whole.transpose_b ? whole.b.slice_rows(begin, end) : whole.b.slice_columns(begin, end);
      p.c = whole.c.slice_columns(begin, end);
      p.n = end - begin;
      p.direct ? cut_direct(p) : cut_packed(format_, p);
    }
  }
  void multiply() {
    for (int64_t begin = 0; begin < count_;) {
      int64_t end = begin + 1, packed = products_[begin].packed_b_floats(format_);
      while (end < count_ && packed + products_[end].packed_b_floats(format_) <= kPackedBudget)
        packed += products_[end++].packed_b_floats(format_);
      multiply_group(ctx_, format_, products_ + begin, end - begin);
      begin = end;
    }
  }

 private:
  Context& ctx_;
  const GemmFormat& format_;
  Product* products_;
  int64_t capacity_, count_ = 0;
};

const GemmFormat& format_of(const GemmKernels& kernels, const Tensor& a) {
  return a.dtype == DType::f32 ? kernels.f32 : kernels.bf16;
}

Product product_of(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, const Tensor& c,
                   bool accumulate) {
  return {.a = a,
          .b = b,
          .c = c,
          .transpose_a = transpose_a,
          .transpose_b = transpose_b,
          .accumulate = accumulate,
          .m = c.rows(),
          .n = c.columns(),
          .k = transpose_a ? a.rows() : a.columns()};
}

/// The product of expert x over its rows [begin, end).
Product expert_product(const GroupedGemm& g, int64_t x, int64_t begin, int64_t end) {
  using Kind = GroupedGemm::Kind;
  const Tensor a = g.a.slice_rows(begin, end), y = g.y.slice_rows(begin, end), w = g.w.at(x);
  if (g.kind == Kind::forward) return product_of(a, false, w, true, y, g.accumulate);
  if (g.kind == Kind::input_gradient) return product_of(a, false, w, false, y, g.accumulate);
  return product_of(a, true, y, false, w, true);
}

}  // namespace

void CpuOps::gemm(Context& ctx, const Gemm& g) {
  check_op(g);
  const GemmFormat& format = format_of(simd_.gemm, g.a);
  Product p = product_of(g.a, g.transpose_a, g.b, g.transpose_b, g.c, g.accumulate);
  p.direct = p.m <= GemmFormat::kDirectRows && !p.transpose_a;
  ArenaScope scope(*ctx.scratch);
  ProductList list(ctx, format, ProductList::slices(format, p));
  list.add(p);
  list.multiply();
}

void CpuOps::grouped_gemm(Context& ctx, const GroupedGemm& g) {
  check_op(g);
  const bool weight_gradient = g.kind == GroupedGemm::Kind::weight_gradient;
  const GemmFormat& format = format_of(simd_.gemm, g.a);
  const int64_t experts = g.w.rows();
  const int32_t* offsets = g.offsets.ptr<int32_t>();
  JAMBALAYA_CHECK(offsets[0] == 0 && offsets[experts] <= g.a.rows(), "rows ", g.a.rows(), ", offsets ",
                  offsets[0], " to ", offsets[experts]);
  // By the rows of the whole call, not by an expert's share of them: the two ways of summing differ in their
  // last bits, and what other tokens choose must not change those of this one.
  const bool direct = !weight_gradient && g.a.rows() <= kDirectGroupedRows;
  ArenaScope scope(*ctx.scratch);
  auto each_part = [&](auto&& use) {
    for (int64_t x = 0; x < experts; x++) {
      JAMBALAYA_CHECK(offsets[x] <= offsets[x + 1], "expert ", x);
      const int64_t end = offsets[x + 1], step = direct ? GemmFormat::kDirectRows : end - offsets[x];
      for (int64_t begin = offsets[x]; begin < end; begin += step) {
        Product part = expert_product(g, x, begin, std::min(begin + step, end));
        part.direct = direct;
        use(part);
      }
    }
  };
  int64_t capacity = 0;
  each_part([&](const Product& p) { capacity += ProductList::slices(format, p); });
  ProductList list(ctx, format, capacity);
  each_part([&](const Product& p) { list.add(p); });
  list.multiply();
}

}  // namespace jambalaya
