// SPDX-License-Identifier: Apache-2.0
#include "core/memory_trace.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

bool SameBytes(const Buffer& a, const Buffer& b) {
  return a.size_bytes() == b.size_bytes() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST(MemoryTrace, GivesTheSameHeadHoweverItWasAppendedAndRead) {
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    const TinyShape shape{.heads = 6, .kv_heads = 2, .tokens = 21, .steps = 3, .dtype = dtype};
    const TinyRun run = MakeTinyRun(shape);
    const auto whole = MakeTinyTrace(shape);
    MemoryTrace pieces(run.info);
    for (int token = 0; token < 24;) {
      const int count = std::min(1 + token / 3, 24 - token);
      for (int layer = 0; layer < shape.layers; ++layer) {
        pieces.AppendChunk(layer, token, Slice(run.layers[layer], run.info.layers[layer], token, count));
      }
      token += count;
      if (token % 2) pieces.ReadKvHead(1, 1);  // laid out in between
    }
    for (int layer = 0; layer < shape.layers; ++layer) {
      EXPECT_EQ(pieces.q_token(layer), whole->q_token(layer));
      for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
        const auto a = whole->ReadKvHead(layer, kv_head), b = pieces.ReadKvHead(layer, kv_head);
        EXPECT_EQ(a->num_tokens, 24);
        EXPECT_TRUE(SameBytes(a->q, b->q) && SameBytes(a->k, b->k) && SameBytes(a->v, b->v));
        EXPECT_EQ(a->lse, b->lse);
        EXPECT_EQ(b, pieces.ReadKvHead(layer, kv_head)) << "a second read must not copy";
      }
    }
  }
}

TEST(MemoryTrace, HeadsHoldWhatWasAppended) {
  const TinyShape shape{.heads = 4, .kv_heads = 2, .tokens = 20, .steps = 0};
  const TinyRun run = MakeTinyRun(shape);
  const auto data = MakeTinyTrace(shape)->ReadKvHead(1, 1);
  const size_t size = 20 * 8;
  EXPECT_EQ(std::memcmp(data->k.data(), run.layers[1].k.At(size), size * 2), 0);
  EXPECT_EQ(std::memcmp(data->v.data(), run.layers[1].v.At(size), size * 2), 0);
  EXPECT_EQ(std::memcmp(data->q.data(), run.layers[1].q.At(2 * size), 2 * size * 2), 0);
}

TEST(MemoryTrace, KeepsOnlyTheQueryRowsAskedFor) {
  const TinyShape shape{.tokens = 48, .steps = 2, .query_rows = "last:3+stride:20"};
  const auto trace = MakeTinyTrace(shape), all = MakeTinyTrace({.tokens = 48, .steps = 2});
  // 42 is the end of the context segment, where a policy may decide.
  EXPECT_EQ(trace->q_token(0), (std::vector<int>{0, 20, 39, 40, 41, 45, 46, 47, 48, 49}));
  const auto some = trace->ReadKvHead(0, 1), full = all->ReadKvHead(0, 1);
  EXPECT_EQ(some->num_rows, 10);
  EXPECT_EQ(some->num_tokens, 50);
  for (int head = 0; head < 2; ++head) {
    for (int row = 0; row < 10; ++row) {
      const int token = trace->q_token(0)[row];
      EXPECT_EQ(some->lse[head * 10 + row], full->lse[head * 50 + token]);
      EXPECT_EQ(some->q.halves()[(head * 10 + row) * 8 + 5], full->q.halves()[(head * 50 + token) * 8 + 5]);
    }
  }
}

TEST(QueryRows, RejectsWhatItDoesNotKnow) {
  for (const char* spec : {"", "some", "last:", "last:0", "last:-1", "stride:4x", "all+", "last:99999999999"}) {
    EXPECT_THROW(QueryRows(spec, 10, {}), Error) << spec;
  }
}

TEST(MemoryTrace, RefusesVectorsAtALevelWithoutThem) {
  const auto trace = MakeTinyTrace({.level = TraceLevel::kRows});
  EXPECT_THROW(trace->ReadKvHead(0, 0), Error);
}

}  // namespace
}  // namespace kvscope
