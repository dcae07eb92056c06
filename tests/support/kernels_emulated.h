// SPDX-License-Identifier: Apache-2.0
// The CUDA twins as the tests run them on the CPU: their sources compiled by g++ (kernels_fibres.h). Knows nothing of
// the real twins, so that it can be included beside either.
#pragma once

#include <ostream>
#include <string>

#include "kernels/attention_decode.h"
#include "kernels/attention_prefill.h"
#include "kernels/column_stats.h"
#include "kernels/column_totals.h"
#include "kernels/dense_matmul.h"
#include "kernels/glu.h"
#include "kernels/rope.h"
#include "kernels/tensor.h"
#include "kernels/top_logits.h"

namespace kvscope {

// kEmulated: the CUDA twin's source on the CPU, one fibre per thread; backwards: the last thread starts first, which a
// missing barrier does not survive.
enum class Backend { kCpu, kCpuFast, kEmulated, kEmulatedBackwards, kCuda };

inline std::string Name(Backend backend) {
  constexpr const char* kNames[] = {"cpu", "cpu_fast", "emulated", "emulated_backwards", "cuda"};
  return kNames[static_cast<int>(backend)];
}
inline void PrintTo(Backend backend, std::ostream* out) {
  *out << Name(backend);
}

inline bool IsEmulated(Backend backend) {
  return backend == Backend::kEmulated || backend == Backend::kEmulatedBackwards;
}
// The twins' sources compiled by g++, see kernels_fibres.h.
namespace cuda_emulated {
void SetBackend(Backend backend);  // one of the emulated ones, before a call
void RmsNorm(const TensorView& x, const TensorView& weight, float epsilon, const TensorView& out,
             const Workspace& workspace);
void AttendDecode(const DecodeAttention& problem, const Workspace& workspace);
size_t DecodeWorkspaceBytes(const DecodeAttention& problem);
void AttendPrefill(const PrefillAttention& problem, const Workspace& workspace);
void ColumnStats(const ColumnStatsProblem& problem, std::span<const StatisticSpec> specs, float* out,
                 const Workspace& workspace);
void Rope(std::span<const RopeRows> ropes, const Workspace& workspace);
void DenseMatmul(const DenseMatmulProblem& problem, const Workspace& workspace);
size_t DenseWorkspaceBytes(const DenseMatmulProblem& problem);
void Embed(const int* ids, const DenseMatrix& table, float scale, const TensorView& out, const Workspace& workspace);
void FindTopLogits(const TopLogits& top, const Workspace& workspace);
size_t TopLogitsWorkspaceBytes(const TopLogits& top);
void FillRandom(void* data, int64_t count, DenseType type, uint64_t seed, float deviation, const Workspace& workspace);
void AddRows(const TensorView& x, const TensorView& out, const Workspace& workspace);
void CapLogits(float cap, const TensorView& x, const Workspace& workspace);
void AddColumns(const ColumnTotals& columns, const Workspace& workspace);
void Glu(Gate kind, const TensorView& gate, const TensorView& up, const TensorView& out, const Workspace& workspace);
}  // namespace cuda_emulated

}  // namespace kvscope
