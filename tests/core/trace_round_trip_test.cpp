// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/export.h"
#include "core/trace_reader.h"
#include "core/trace_writer.h"
#include "tests/support/core_files.h"
#include "tests/support/core_tiny_trace.h"

namespace kvscope {
namespace {

bool SameBytes(const Buffer& a, const Buffer& b) {
  return a.dtype() == b.dtype() && a.size_bytes() == b.size_bytes() &&
         std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

void ExpectSameInfo(const TraceInfo& a, const TraceInfo& b) {
  EXPECT_EQ(a.run_id, b.run_id);
  EXPECT_EQ(a.created_utc, b.created_utc);
  EXPECT_EQ(a.generator, b.generator);
  EXPECT_EQ(a.level, b.level);
  EXPECT_EQ(a.prompt_tokens, b.prompt_tokens);
  const auto model = [](const ModelInfo& m) {
    return std::make_tuple(m.name, m.architecture, m.num_layers, m.vocab, m.file_sha256, m.norm_epsilon, m.backend,
                           m.device, m.engine_flags, m.kv_dtype, m.prefill_chunk, m.query_rows);
  };
  EXPECT_EQ(model(a.model), model(b.model));
  const auto task = [](const TaskInfo& t) {
    return std::make_tuple(t.name, t.parameters_json, t.seed, t.expected_answers, t.scorer, t.priming_text,
                           t.scored_text);
  };
  EXPECT_EQ(task(a.task), task(b.task));
  ASSERT_EQ(a.rope_sets.size(), b.rope_sets.size());
  for (size_t i = 0; i < a.rope_sets.size(); ++i) {
    EXPECT_EQ(a.rope_sets[i].name, b.rope_sets[i].name);
    EXPECT_EQ(a.rope_sets[i].inv_freq, b.rope_sets[i].inv_freq);
    EXPECT_EQ(a.rope_sets[i].attention_scaling, b.rope_sets[i].attention_scaling);
  }
  const auto layer = [](const LayerInfo& l) {
    return std::make_tuple(l.layer, l.kind, l.window, l.num_heads, l.num_kv_heads, l.head_dim_k, l.head_dim_v, l.scale,
                           l.softcap, l.sink, l.rope_set, l.heads, l.kv_heads);
  };
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) EXPECT_EQ(layer(a.layers[i]), layer(b.layers[i]));
  ASSERT_EQ(a.segments.size(), b.segments.size());
  for (size_t i = 0; i < a.segments.size(); ++i) {
    const Segment &x = a.segments[i], &y = b.segments[i];
    EXPECT_EQ(std::tie(x.role, x.turn, x.token_begin, x.token_end, x.decide_at),
              std::tie(y.role, y.turn, y.token_begin, y.token_end, y.decide_at));
  }
  ASSERT_EQ(a.spans.size(), b.spans.size());
  for (size_t i = 0; i < a.spans.size(); ++i) {
    const Span &x = a.spans[i], &y = b.spans[i];
    EXPECT_EQ(std::tie(x.kind, x.token_begin, x.token_end, x.label),
              std::tie(y.kind, y.token_begin, y.token_end, y.label));
  }
}

void ExpectSameRun(const TinyRun& run, const TraceReader& trace) {
  ExpectSameInfo(run.info, trace.info());
  EXPECT_EQ(trace.tokens().ids, run.tokens.ids);
  EXPECT_EQ(trace.tokens().positions, run.tokens.positions);
  EXPECT_EQ(trace.tokens().pieces, run.tokens.pieces);
  ASSERT_EQ(trace.tokens().logprobs.size(), run.tokens.logprobs.size());
  for (size_t i = 0; i < run.tokens.logprobs.size(); ++i) {
    const float expected = run.tokens.logprobs[i], found = trace.tokens().logprobs[i];
    EXPECT_TRUE(expected == found || (std::isnan(expected) && std::isnan(found))) << i;
  }
  EXPECT_EQ(trace.answer().text, run.answer.text);
  EXPECT_EQ(trace.answer().score, run.answer.score);
  ASSERT_EQ(trace.steps().size(), run.steps.size());
  for (size_t i = 0; i < run.steps.size(); ++i) {
    const StepInfo &x = run.steps[i], &y = trace.steps()[i];
    EXPECT_EQ(std::tie(x.time_ns, x.sampled_id, x.top_ids, x.top_logprobs, x.queue_depth, x.stall_ns),
              std::tie(y.time_ns, y.sampled_id, y.top_ids, y.top_logprobs, y.queue_depth, y.stall_ns));
  }
  MemoryTrace memory(run.info);
  const int num_layers = static_cast<int>(run.layers.size());
  for (int layer = 0; layer < num_layers; ++layer) memory.AppendChunk(layer, 0, run.layers[layer]);
  for (int layer = 0; layer < num_layers; ++layer) {
    const LayerInfo& info = run.info.layers[layer];
    if (run.info.level != TraceLevel::kRows) {
      EXPECT_EQ(trace.q_token(layer), memory.q_token(layer));
      for (size_t kv_head = 0; kv_head < info.kv_heads.size(); ++kv_head) {
        const auto a = memory.ReadKvHead(layer, static_cast<int>(kv_head)),
                   b = trace.ReadKvHead(layer, static_cast<int>(kv_head));
        EXPECT_EQ(a->head_dim_k, b->head_dim_k);
        EXPECT_EQ(a->head_dim_v, b->head_dim_v);
        EXPECT_EQ(std::tie(a->num_tokens, a->num_rows, a->group), std::tie(b->num_tokens, b->num_rows, b->group));
        EXPECT_TRUE(SameBytes(a->q, b->q) && SameBytes(a->k, b->k) && SameBytes(a->v, b->v));
        EXPECT_EQ(a->lse, b->lse);
      }
    }
    if (run.info.level == TraceLevel::kQkv) continue;
    for (size_t head = 0; head < info.heads.size(); ++head) {
      const RecordedRows rows = trace.ReadRows(layer, static_cast<int>(head));
      ASSERT_EQ(rows.num_steps, static_cast<int>(run.steps.size()));
      for (int step = 0; step < rows.num_steps; ++step) {
        const int length = run.info.prompt_tokens + step + 1;
        ASSERT_EQ(rows.row_token[step], length - 1);
        for (int token = 0; token < rows.num_tokens; ++token) {
          const Half expected = token < length ? run.rows[layer][step][head * length + token] : Half{};
          ASSERT_EQ(rows.weights[size_t(step) * rows.num_tokens + token], expected) << step << " " << token;
        }
      }
    }
  }
}

TEST(TraceFile, GivesBackEverythingThatWasWritten) {
  const TinyShape shapes[] = {
      {},
      {.layers = 3, .heads = 9, .kv_heads = 3, .head_dim = 64, .tokens = 300, .steps = 70},
      {.heads = 8, .kv_heads = 1, .tokens = 100, .steps = 3, .dtype = DType::kF32, .window = 10, .softcap = 5},
      {.layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 1, .steps = 0},
      {.tokens = 90, .steps = 9, .level = TraceLevel::kQkv},
      {.tokens = 20, .steps = 30, .level = TraceLevel::kRows},
      {.tokens = 150, .steps = 5, .query_rows = "last:5+stride:16"},
  };
  for (const TinyShape& shape : shapes) {
    const std::string path = TempPath("round_trip.kvtrace.h5");
    for (const int chunk : {7, 64, 512}) {
      WriteTinyTrace(path, shape, chunk);
      const auto trace = TraceReader::Open(path);
      EXPECT_EQ(trace->status(), TraceStatus::kComplete);
      ExpectSameRun(MakeTinyRun(shape), *trace);
      EXPECT_EQ(trace->file_bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
    }
  }
}

TEST(TraceFile, GivesBackColumnStatistics) {
  const TinyShape shape{.layers = 3, .tokens = 90, .steps = 9, .level = TraceLevel::kRelevance};
  const std::string path = TempPath("columns.kvtrace.h5");
  WriteTinyTrace(path, shape);
  const TinyRun run = MakeTinyRun(shape);
  const auto trace = TraceReader::Open(path);
  EXPECT_EQ(trace->status(), TraceStatus::kComplete);
  EXPECT_EQ(trace->tokens().ids, run.tokens.ids);
  for (int layer = 0; layer < 3; ++layer) {
    const ColumnStatistics expected = ExactColumns(run, layer, 99), found = trace->ReadColumnStatistics(layer);
    EXPECT_EQ(std::tie(found.num_rows, found.num_tokens), std::tie(expected.num_rows, expected.num_tokens));
    EXPECT_EQ(found.sum, expected.sum);
    EXPECT_EQ(found.max, expected.max);
  }
  const VerifyResult verified = VerifyTrace(*trace);
  EXPECT_TRUE(verified.ok) << verified.worst_place;
  EXPECT_EQ(verified.rows_checked, 3 * 4 * 99);
  EXPECT_THROW(trace->ReadKvHead(0, 0), Error);
  EXPECT_THROW(trace->ReadRows(0, 0), Error);
  WriteTinyTrace(path, {});
  EXPECT_THROW(TraceReader::Open(path)->ReadColumnStatistics(0), Error);
}

TEST(TraceFile, ExportsTheSameColumnsInEveryFormat) {
  const std::string path = TempPath("export_columns.kvtrace.h5"), out = TempPath("columns");
  WriteTinyTrace(path, {.level = TraceLevel::kRelevance});
  const auto trace = TraceReader::Open(path);
  WriteFile(out + ".csv", ExportColumns(*trace, 1, 3, ExportFormat::kCsv));
  WriteFile(out + ".json", ExportColumns(*trace, 1, 3, ExportFormat::kJson));
  WriteFile(out + ".npz", ExportColumns(*trace, 1, 3, ExportFormat::kNpz));
  const CommandResult python = RunPython(R"(
import csv, json, sys, h5py, numpy as np
out, path = sys.argv[1], sys.argv[2]
layer = h5py.File(path)['layer/01']
z, j = np.load(out + '.npz'), json.load(open(out + '.json'))
lines = list(csv.DictReader(open(out + '.csv')))
assert layer['column_rows'][0] == 52 == j['rows'] == z['rows'][0] == len(lines) and len(z['token_id']) == 52
for name in 'sum', 'max':
    wanted = layer['column_' + name][3]
    assert (z[name] == wanted).all() and (np.array(j[name], 'f4') == wanted).all()
    assert (np.array([line[name] for line in lines], 'f4') == wanted).all()
)",
                                         out + " " + path);
  EXPECT_EQ(python.exit_code, 0) << python.output;
  EXPECT_THROW(ExportColumns(*trace, 2, 0, ExportFormat::kCsv), Error);
  EXPECT_THROW(ExportRows(*trace, 1, 3, ExportFormat::kCsv), Error);
}

TEST(TraceFile, AFollowerSeesColumnStatisticsBecomeCurrent) {
  const TinyShape shape{.tokens = 40, .steps = 4, .level = TraceLevel::kRelevance};
  const TinyRun run = MakeTinyRun(shape);
  const std::string path = TempPath("followed_columns.kvtrace.h5");
  TraceWriter writer(path, run.info, {.flush_interval_secs = 3600, .overwrite = true});
  writer.AppendTokens(run.tokens);
  writer.Flush();
  const auto reader = TraceReader::Open(path);
  EXPECT_EQ(reader->ReadColumnStatistics(1).num_rows, 0);
  for (const int rows : {40, 44}) {
    const ColumnStatistics columns = ExactColumns(run, 1, rows);
    writer.SetColumnStatistics(1, rows, columns.sum, columns.max);
    writer.Flush();
    EXPECT_TRUE(reader->Refresh()) << rows;
    EXPECT_EQ(reader->num_column_rows(1), rows);
    EXPECT_EQ(reader->ReadColumnStatistics(1).sum, columns.sum);
    EXPECT_EQ(reader->ReadColumnStatistics(0).num_tokens, 0);
  }
}

}  // namespace
}  // namespace kvscope
