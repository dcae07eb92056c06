// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kernels_fibres.h"

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_emulated.h"

namespace kvscope::fibres {
namespace {

constexpr size_t kStackBytes = 64 << 10, kWarpLanes = 32;
constexpr int kCopyBytes = 16;
constexpr uint32_t kSharedStart = 0x410;  // of dynamic shared memory in its address space; a multiple of 16 only
constexpr int kRunning = 0, kDone = -1;   // other values of Fibre::site: the line at which it waits

struct Copy {
  void* to;
  const void* from;
  int bytes_valid;
};

// An asynchronous product of a warpgroup, what it means for one lane: its two rows of a and 16 columns of b.
struct Product {
  float (*d)[4];
  bool accumulate, is_transposed;
  uint64_t descriptor;
  float a[2][16];
  std::array<std::array<uint16_t, 16>, 16> b;
};

// What products in flight have made of d so far; d itself is NaN.
struct Accumulator {
  float (*d)[4];
  int products;  // in flight
  float values[8][4];
};

struct Fibre {
  ucontext_t context;  // where it begins; from then on it goes on at `place`, which needs no system call
  jmp_buf place;
  bool has_begun = false;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  dim3 index;
  int site = kRunning;
  bool waits_for_block = false;  // else for the lanes of `mask`
  uint32_t mask = 0;
  int source_lane = 0;
  uint64_t value = 0;               // brought, then received
  std::array<uint64_t, 32> of_all;  // received
  std::vector<Copy> open_copies;
  std::deque<std::vector<Copy>> copy_groups;  // closed, not waited for
  std::vector<size_t> unfenced;               // chunks of shared memory that it copied and MmaAsync may not see yet
  bool has_fenced_registers = false;
  std::vector<Product> open_products;
  std::deque<std::vector<Product>> product_groups;
  std::vector<Accumulator> accumulators;
};

struct Block {
  jmp_buf place;
  std::span<const std::unique_ptr<Fibre>> fibres;
  size_t current = 0;
  const std::function<void()>* kernel = nullptr;
  std::exception_ptr failure;
  std::vector<std::max_align_t> shared;
  std::vector<bool> is_unfenced;  // by chunk of shared memory
};
Block* block = nullptr;
std::vector<std::unique_ptr<Fibre>> pool;  // of all launches, one after another
Order order = Order::kForward;

Fibre& Current() {
  return *block->fibres[block->current];
}

void Body() {
  try {
    (*block->kernel)();
  } catch (...) {
    block->failure = std::current_exception();
  }
  Current().site = kDone;
  _longjmp(block->place, 1);
}

void Wait() {
  if (_setjmp(Current().place) == 0) _longjmp(block->place, 1);
}

std::string Waiting() {
  std::string text;
  for (size_t i = 0; i < block->fibres.size() && text.size() < 400; ++i) {
    const Fibre& fibre = *block->fibres[i];
    const std::string place = fibre.site == kDone ? "has ended" : StrCat("waits at line ", fibre.site);
    const bool as_before = i > 0 && block->fibres[i - 1]->site == fibre.site;
    if (!as_before) text += StrCat(text.empty() ? "" : ", ", "thread ", i, " ", place);
  }
  return text;
}

// Lets the fibres that wait for the whole block go on, when all that have not ended do, at one line.
bool ReleaseBlock() {
  int site = kDone;
  for (const auto& fibre : block->fibres) {
    if (fibre->site == kDone) continue;
    if (fibre->site == kRunning || !fibre->waits_for_block || (site != kDone && fibre->site != site)) return false;
    site = fibre->site;
  }
  for (const auto& fibre : block->fibres) {
    if (fibre->site != kDone) fibre->site = kRunning;
  }
  return site != kDone;
}

// The lanes of the fibre's mask wait at its line with the same mask: they get what they asked for.
bool ReleaseLanes(size_t index) {
  const Fibre& fibre = *block->fibres[index];
  if (fibre.site <= kRunning || fibre.waits_for_block) return false;
  const size_t first = index / kWarpLanes * kWarpLanes;
  const size_t lanes = std::min(kWarpLanes, block->fibres.size() - first);
  std::vector<uint64_t> values(kWarpLanes);
  const uint32_t present = lanes == kWarpLanes ? ~0u : (1u << lanes) - 1;
  const uint32_t mask = fibre.mask & present;
  for (size_t lane = 0; lane < lanes; ++lane) {
    const Fibre& other = *block->fibres[first + lane];
    values[lane] = other.value;
    if (!(mask >> lane & 1)) continue;
    if (other.site != fibre.site || other.waits_for_block || other.mask != fibre.mask) return false;
  }
  const int site = fibre.site;
  for (size_t lane = 0; lane < lanes; ++lane) {
    Fibre& other = *block->fibres[first + lane];
    if (!(mask >> lane & 1)) continue;
    if (other.source_lane < 0 || other.source_lane >= static_cast<int>(kWarpLanes) ||
        !(mask >> other.source_lane & 1)) {
      throw Error(StrCat("line ", site, ": thread ", first + lane, " reads lane ", other.source_lane,
                         ", which does not take part"));
    }
    other.value = values[other.source_lane];
    std::copy(values.begin(), values.end(), other.of_all.begin());
    other.site = kRunning;
  }
  return true;
}

// Lets it run until it waits or ends. Of its own, so that no variable lives across the jump.
[[gnu::noinline]] void Resume(Fibre& fibre) {
  if (_setjmp(block->place) != 0) return;
  if (std::exchange(fibre.has_begun, true)) _longjmp(fibre.place, 1);
  setcontext(&fibre.context);
}

void Start(Fibre& fibre) {
  fibre.site = kRunning;
  fibre.has_begun = false;
  fibre.open_copies.clear(), fibre.copy_groups.clear(), fibre.unfenced.clear();
  fibre.open_products.clear(), fibre.product_groups.clear(), fibre.accumulators.clear();
  fibre.has_fenced_registers = false;
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack.get();
  fibre.context.uc_stack.ss_size = kStackBytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, Body, 0);
}

// Runs the warp that starts at fibre `first` until all its fibres wait for the block or have ended, or for lanes that
// do not come. False: nothing went on.
bool RunWarp(size_t first) {
  const size_t count = std::min(kWarpLanes, block->fibres.size() - first);
  for (bool any = false;; any = true) {
    bool goes_on = false;
    for (size_t turn = 0; turn < count; ++turn) {
      block->current = first + (order == Order::kForward ? turn : count - 1 - turn);
      if (Current().site != kRunning) continue;
      goes_on = true;
      threadIdx = Current().index;
      Resume(Current());
      if (block->failure) std::rethrow_exception(block->failure);
    }
    for (size_t i = 0; i < count; ++i) goes_on |= ReleaseLanes(first + i);
    if (!goes_on) return any;
  }
}

void RunBlock() {
  const size_t warps = (block->fibres.size() + kWarpLanes - 1) / kWarpLanes;
  while (true) {
    bool goes_on = false;
    for (size_t turn = 0; turn < warps; ++turn) {
      goes_on |= RunWarp((order == Order::kForward ? turn : warps - 1 - turn) * kWarpLanes);
    }
    if (ReleaseBlock() || goes_on) continue;
    for (const auto& fibre : block->fibres) {
      if (fibre->site != kDone) throw Error(StrCat("threads of a block do not meet: ", Waiting()));
    }
    return;
  }
}

}  // namespace

void SetOrder(Order new_order) {
  order = new_order;
}
bool IsEager() {
  return order == Order::kForward;
}

void Launch(const dim3& grid, const dim3& block_size, size_t shared_bytes, const std::function<void()>& kernel) {
  gridDim = grid, blockDim = block_size;
  const size_t blocks = size_t{grid.x} * grid.y * grid.z, threads = size_t{block_size.x} * block_size.y * block_size.z;
  Block here;
  here.kernel = &kernel;
  while (pool.size() < threads) pool.push_back(std::make_unique<Fibre>());
  here.fibres = std::span(pool).first(threads);
  for (size_t i = 0; i < threads; ++i) {
    dim3& index = here.fibres[i]->index;
    index.x = static_cast<unsigned>(i % block_size.x), index.y = static_cast<unsigned>(i / block_size.x % block_size.y);
    index.z = static_cast<unsigned>(i / block_size.x / block_size.y);
  }
  block = &here;
  for (size_t turn = 0; turn < blocks; ++turn) {
    const size_t i = order == Order::kForward ? turn : blocks - 1 - turn;
    blockIdx.x = static_cast<unsigned>(i % grid.x), blockIdx.y = static_cast<unsigned>(i / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(i / grid.x / grid.y);
    here.shared.resize(shared_bytes / sizeof(std::max_align_t) + 1);
    std::memset(here.shared.data(), 0xff, here.shared.size() * sizeof(std::max_align_t));  // NaN: nobody wrote it
    here.is_unfenced.assign(here.shared.size() * sizeof(std::max_align_t) / kCopyBytes + 1, false);
    for (const auto& fibre : here.fibres) Start(*fibre);
    RunBlock();
  }
  block = nullptr;
}

void SyncThreads(int site) {
  Fibre& fibre = Current();
  fibre.site = site, fibre.waits_for_block = true;
  Wait();
}

uint64_t Exchange(uint32_t mask, uint64_t value, int source_lane, int site) {
  Fibre& fibre = Current();
  if (!(mask >> Lane() & 1)) throw Error(StrCat("line ", site, ": a thread outside the mask takes part"));
  fibre.site = site, fibre.waits_for_block = false;
  fibre.mask = mask, fibre.value = value, fibre.source_lane = source_lane;
  Wait();
  return fibre.value;
}

std::array<uint64_t, 32> Gather(uint64_t value, int site) {
  Exchange(~0u, value, Lane(), site);
  return Current().of_all;
}

void StartCopy(void* to, const void* from, int bytes_valid) {
  if (bytes_valid != 0 && bytes_valid != kCopyBytes)
    throw Error(StrCat("a copy of ", bytes_valid, " bytes, not 0 or 16"));
  if (reinterpret_cast<uintptr_t>(to) % kCopyBytes != 0 || reinterpret_cast<uintptr_t>(from) % kCopyBytes != 0) {
    throw Error("a copy between addresses that are not multiples of 16");
  }
  std::memset(to, 0xff, kCopyBytes);
  Current().open_copies.push_back({to, from, bytes_valid});
}

void CloseCopies() {
  Current().copy_groups.push_back(std::exchange(Current().open_copies, {}));
}

void FinishCopies(size_t but_newest_groups) {
  auto& groups = Current().copy_groups;
  for (; groups.size() > but_newest_groups; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      std::memset(copy.to, 0, kCopyBytes);
      std::memcpy(copy.to, copy.from, copy.bytes_valid);
      const size_t offset = static_cast<char*>(copy.to) - reinterpret_cast<char*>(block->shared.data());
      if (offset / kCopyBytes >= block->is_unfenced.size()) continue;  // not to dynamic shared memory
      block->is_unfenced[offset / kCopyBytes] = true;
      Current().unfenced.push_back(offset / kCopyBytes);
    }
  }
}

namespace {

// Half (k, column) of the b that a matrix descriptor describes: the canonical layouts of the PTX ISA with 128-byte
// swizzle, K-major or, transposed, MN-major.
uint16_t HalfOfB(uint64_t descriptor, bool is_transposed, int k, int column) {
  const auto field = [&](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) throw Error("a matrix descriptor without 128-byte swizzle");
  const uint32_t linear = is_transposed ? column % 64 * 2 + column / 64 * leading + k % 8 * 128 + k / 8 * stride
                                        : column % 8 * 128 + column / 8 * stride + k * 2;
  uint32_t address = start + linear;
  address ^= (address >> 7 & 7) << 4;
  const size_t offset = address - kSharedStart;
  if (address < kSharedStart || offset + 2 > block->shared.size() * sizeof(std::max_align_t)) {
    throw Error("a matrix descriptor that leaves shared memory");
  }
  if (block->is_unfenced[offset / kCopyBytes]) throw Error("MmaAsync reads a copy behind which no FenceCopies was");
  uint16_t half;
  std::memcpy(&half, reinterpret_cast<const char*>(block->shared.data()) + offset, sizeof half);
  return half;
}

// Rows of b's columns that this lane needs: [2 n + i] is column 8 n + 2 (lane % 4) + i.
std::array<std::array<uint16_t, 16>, 16> ColumnsOfLane(uint64_t descriptor, bool is_transposed) {
  std::array<std::array<uint16_t, 16>, 16> columns;
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      columns[i][k] = HalfOfB(descriptor, is_transposed, k, i / 2 * 8 + Lane() % 4 * 2 + i % 2);
    }
  }
  return columns;
}

float FloatFromBits(uint16_t bits) {
  return FloatFromHalf({bits});
}

}  // namespace

void StartProduct(bool is_transposed, float (*d)[4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  Fibre& fibre = Current();
  if (!fibre.has_fenced_registers) throw Error("MmaAsync without FenceRegisters since the last wait");
  Product product{d, accumulate, is_transposed, b, {}, {}};
  std::array<uint64_t, 32> words[2];
  for (int i = 0; i < 2; ++i) words[i] = Gather(a[2 * i] | uint64_t{a[2 * i + 1]} << 32, __LINE__);
  for (int row = 0; row < 2; ++row) {
    for (int k = 0; k < 16; ++k) {
      const uint64_t four = words[k / 8][Lane() / 4 * 4 + k % 8 / 2];
      product.a[row][k] = FloatFromBits(static_cast<uint16_t>(four >> (row * 32 + k % 2 * 16)));
    }
  }
  for (const uint64_t other : Gather(b, __LINE__)) {
    if (other != b) throw Error("MmaAsync with several descriptors in a warp");
  }
  product.b = ColumnsOfLane(b, is_transposed);
  auto of_d = std::find_if(fibre.accumulators.begin(), fibre.accumulators.end(), [&](auto& one) { return one.d == d; });
  if (of_d == fibre.accumulators.end()) {
    of_d = fibre.accumulators.insert(of_d, {d, 0, {}});
    std::memcpy(of_d->values, d, sizeof of_d->values);
    std::memset(d, 0xff, sizeof of_d->values);
  }
  ++of_d->products;
  fibre.open_products.push_back(product);
}

void CloseProducts() {
  Current().product_groups.push_back(std::exchange(Current().open_products, {}));
}

void FinishProducts(size_t but_newest_groups) {
  Fibre& fibre = Current();
  fibre.has_fenced_registers = false;
  for (auto& groups = fibre.product_groups; groups.size() > but_newest_groups; groups.pop_front()) {
    for (const Product& product : groups.front()) {
      if (product.b != ColumnsOfLane(product.descriptor, product.is_transposed)) {
        throw Error("shared memory was overwritten while MmaAsync reads it");
      }
      const auto of_d = std::find_if(fibre.accumulators.begin(), fibre.accumulators.end(),
                                     [&](auto& one) { return one.d == product.d; });
      for (int n = 0; n < 8; ++n) {
        for (int i = 0; i < 4; ++i) {
          float& value = of_d->values[n][i];
          if (!product.accumulate) value = 0;
          for (int k = 0; k < 16; ++k) {
            value = std::fma(product.a[i / 2][k], FloatFromBits(product.b[2 * n + i % 2][k]), value);
          }
        }
      }
      if (--of_d->products > 0) continue;
      std::memcpy(of_d->d, of_d->values, sizeof of_d->values);
      fibre.accumulators.erase(of_d);
    }
  }
}

void CheckIsNotInFlight(const float (*d)[4]) {
  for (const Accumulator& one : Current().accumulators) {
    if (one.d == d) throw Error("Settle before the wait for MmaAsync's results");
  }
}

void* DynamicShared() {
  return block->shared.data();
}

int Lane() {
  return static_cast<int>(block->current % kWarpLanes);
}

}  // namespace kvscope::fibres

void kvscope::cuda_emulated::Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const auto all = fibres::Gather(reinterpret_cast<uint64_t>(&mine), __LINE__);
  const auto of_lane = [&](int lane) -> const Fragments& { return *reinterpret_cast<const Fragments*>(all[lane]); };
  const auto half = [](uint32_t pair, int index) {
    return FloatFromHalf({static_cast<uint16_t>(index == 0 ? pair : pair >> 16)});
  };
  const int lane = fibres::Lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float left = half(of_lane(row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2], k % 2);
      const float right = half(of_lane(column * 4 + k % 8 / 2).b[k / 8], k % 2);
      d[i] = std::fma(left, right, d[i]);
    }
  }
  fibres::Gather(0, __LINE__);  // nobody leaves before all have read
}

namespace {

struct Matrix {
  uint16_t halves[8][8];
};

// The four matrices whose rows the lanes of the warp name.
std::array<Matrix, 4> MatricesOfWarp(const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % sizeof(Matrix::halves[0]) != 0) {
    throw kvscope::Error("a matrix row at an address that is not a multiple of 16");
  }
  const auto rows = kvscope::fibres::Gather(reinterpret_cast<uint64_t>(row), __LINE__);
  std::array<Matrix, 4> matrices;
  for (int lane = 0; lane < 32; ++lane) {
    std::memcpy(matrices[lane / 8].halves[lane % 8], reinterpret_cast<const void*>(rows[lane]),
                sizeof Matrix::halves[0]);
  }
  return matrices;
}

}  // namespace

void kvscope::cuda_emulated::LoadMatrices(uint32_t (&words)[4], const void* row) {
  const auto matrices = MatricesOfWarp(row);
  const int g = fibres::Lane() / 4, i = fibres::Lane() % 4 * 2;
  for (int m = 0; m < 4; ++m) words[m] = matrices[m].halves[g][i] | uint32_t{matrices[m].halves[g][i + 1]} << 16;
}

void kvscope::cuda_emulated::LoadMatricesTransposed(uint32_t (&words)[4], const void* row) {
  const auto matrices = MatricesOfWarp(row);
  const int g = fibres::Lane() / 4, i = fibres::Lane() % 4 * 2;
  for (int m = 0; m < 4; ++m) words[m] = matrices[m].halves[i][g] | uint32_t{matrices[m].halves[i + 1][g]} << 16;
}

uint32_t kvscope::cuda_emulated::SharedAddress(const void* shared) {
  const auto start = reinterpret_cast<uintptr_t>(fibres::DynamicShared());
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(shared) - start) + fibres::kSharedStart;
}

void kvscope::cuda_emulated::FenceCopies() {
  for (const size_t chunk : fibres::Current().unfenced) fibres::block->is_unfenced[chunk] = false;
  fibres::Current().unfenced.clear();
}

void kvscope::cuda_emulated::FenceRegisters() {
  fibres::Current().has_fenced_registers = true;
}

void kvscope::cuda_emulated::SetBackend(Backend backend) {
  fibres::SetOrder(backend == Backend::kEmulated ? fibres::Order::kForward : fibres::Order::kBackward);
}
