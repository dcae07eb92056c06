// SPDX-License-Identifier: Apache-2.0
// A run on a device against the same run on the CPU: on the device at hand, and on the emulated one, whose streams are
// eager or as late as they may be.
#include "capture/device_engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "capture/cpu_engine.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "core/error.h"
#include "core/trace_reader.h"
#include "kernels/device.h"
#include "tests/support/capture_fidelity.h"
#include "tests/support/capture_sinks.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace cuda_emulated {  // capture/device_engine.h as this program compiles it a second time
std::unique_ptr<DeviceEngine> MakeDeviceEngine(const Model& model, const DeviceOptions& options);
std::unique_ptr<DeviceEngine> MakeRandomEngine(const ModelConfig& config, const DeviceOptions& options);
}  // namespace cuda_emulated

namespace {

constexpr int64_t kRingBytes = int64_t{1} << 20;

class OnDevice : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    KVSCOPE_SKIP_WITHOUT(GetParam());
    if (IsEmulated(GetParam())) cuda_emulated::SetBackend(GetParam());
    folder_ = std::filesystem::temp_directory_path() / ("kvscope_on_device_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    tiny_.layers = 3, tiny_.heads = 4, tiny_.kv_heads = 2, tiny_.head_dim = 16, tiny_.ffn = 48, tiny_.vocab = 264;
    Load(tiny_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void LoadSmallest() {
    TinyGgufOptions tiny;
    tiny.layers = 2, tiny.heads = 2, tiny.kv_heads = 2, tiny.head_dim = 16, tiny.ffn = 32, tiny.vocab = 264;
    Load(tiny);
  }
  void Load(const TinyGgufOptions& options) {
    gguf_ = std::make_unique<GgufFile>(GgufFile::FromBytes("tiny", TinyGgufBytes(options)));
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::FromGguf(*gguf_));
    model_ = LoadModel(*gguf_);
    const std::vector<int> text = tokenizer_->Encode(
        "The quick brown fox jumps over the lazy dog, twice over, and then it rests a while.", false);
    prompt_ = {};
    prompt_.ids.assign(text.begin(), text.begin() + 40);
    prompt_.forced_ids.assign(text.begin() + 40, text.begin() + 45);
    prompt_.segments = {{"context", 0, 0, 33, true}, {"question", 0, 33, 40, false}};
    prompt_.task.name = "prompt";
  }

  std::unique_ptr<DeviceEngine> MakeEngine(const DeviceOptions& options) const {
    return IsEmulated(GetParam()) ? cuda_emulated::MakeDeviceEngine(*model_, options)
                                  : cuda::MakeDeviceEngine(*model_, options);
  }

  std::unique_ptr<DeviceEngine> MakeRandomEngine(const ModelConfig& config) const {
    const DeviceOptions options{.ring_bytes = kRingBytes};
    return IsEmulated(GetParam()) ? cuda_emulated::MakeRandomEngine(config, options)
                                  : cuda::MakeRandomEngine(config, options);
  }

  std::unique_ptr<TraceReader> Record(Engine& engine, const RunOptions& options, const std::string& name,
                                      RunOutcome* outcome = nullptr) const {
    const std::string path = folder_ / name;
    const TraceInfo info = MakeTraceInfo(engine.config(), engine.info(), "", prompt_, options);
    Recorder recorder(path, info, {.writer = {.overwrite = true}});
    const RunOutcome result = RunPrompt(engine, tokenizer_.get(), prompt_, options, info, &recorder);
    if (outcome) *outcome = result;
    recorder.Finish();
    return TraceReader::Open(path);
  }

  TinyGgufOptions tiny_;
  std::filesystem::path folder_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  Prompt prompt_;
};

// |a - b| / |b| over all elements.
template <typename Values>
double RelativeError(const Values& a, const Values& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(difference / size);
}

// Weights in f16 and activations in f16 before products of several tokens: 2^-11 each, some 4e-4 together, of every
// layer's outputs; three layers add up. bf16 has 2^-8.
void ExpectTheSameRun(const TraceReader& device, const TraceReader& cpu, double tolerance) {
  EXPECT_EQ(device.tokens().ids, cpu.tokens().ids);
  for (size_t token = 0; token < cpu.tokens().ids.size(); ++token) {
    const float expected = cpu.tokens().logprobs[token], found = device.tokens().logprobs[token];
    ASSERT_EQ(std::isnan(found), std::isnan(expected)) << token;
    if (!std::isnan(expected)) {
      ASSERT_NEAR(found, expected, 20 * tolerance) << token;
    }
  }
  for (int layer = 0; layer < static_cast<int>(cpu.info().layers.size()); ++layer) {
    for (int kv_head = 0; kv_head < static_cast<int>(cpu.info().layers[layer].kv_heads.size()); ++kv_head) {
      const auto of_device = device.ReadKvHead(layer, kv_head), of_cpu = cpu.ReadKvHead(layer, kv_head);
      const KvHeadData &a = *of_device, &b = *of_cpu;
      EXPECT_LT(RelativeError(Floats(a.q), Floats(b.q)), tolerance) << "q of layer " << layer;
      EXPECT_LT(RelativeError(Floats(a.k), Floats(b.k)), tolerance) << "k of layer " << layer;
      EXPECT_LT(RelativeError(Floats(a.v), Floats(b.v)), tolerance) << "v of layer " << layer;
      ASSERT_EQ(a.lse.size(), b.lse.size());
      for (size_t i = 0; i < a.lse.size(); ++i) ASSERT_NEAR(a.lse[i], b.lse[i], 5 * tolerance) << layer << " " << i;
    }
  }
}

TEST_P(OnDevice, RecordsWhatTheCpuRecords) {
  CpuEngine cpu(*model_, DType::kF16);
  RunOptions options{.prefill_chunk = 16, .logprobs = true};
  RunOutcome expected, outcome;
  const auto reference = Record(cpu, options, "cpu.kvtrace.h5", &expected);
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  // Twice: the second run must find nothing of the first.
  for (const char* const name : {"first.kvtrace.h5", "second.kvtrace.h5"}) {
    const auto trace = Record(*engine, options, name, &outcome);
    EXPECT_EQ(trace->info().model.backend, "cuda");
    EXPECT_EQ(trace->status(), TraceStatus::kComplete);
    ExpectTheSameRun(*trace, *reference, 2e-3);
    EXPECT_NEAR(outcome.mean_nll, expected.mean_nll, 5e-3);
    const VerifyResult verified = VerifyTrace(*trace);
    EXPECT_TRUE(verified.ok) << verified.worst_place;
    EXPECT_EQ(verified.rows_checked, VerifyTrace(*reference).rows_checked);
  }
}

TEST(WhyNotOnDevice, NamesExpertsAndInt8Activations) {
  ModelConfig config;
  EXPECT_EQ(WhyNotOnDevice(config), "");
  EXPECT_EQ(WhyNotOnDevice(config, Activations::kInt8), "int8 activations");
  config.num_experts = 4;
  EXPECT_EQ(WhyNotOnDevice(config), "experts");
}

TEST_P(OnDevice, RunsEveryFamilyAsTheCpuDoes) {
  for (const Architecture& family : Architectures()) {
    SCOPED_TRACE(family.name);
    TinyGgufOptions tiny = tiny_;
    tiny.layers = 2;
    tiny.architecture = family.name;
    tiny.sliding_window = 9;
    if (family.name == "qwen3moe") tiny.experts = 4;
    Load(tiny);
    if (const std::string why = WhyNotOnDevice(model_->config); !why.empty()) {
      EXPECT_THROW(MakeEngine({.ring_bytes = kRingBytes}), Error) << why;
      continue;
    }
    CpuEngine cpu(*model_, DType::kF16);
    const RunOptions options{.prefill_chunk = 16, .logprobs = true};
    const auto reference = Record(cpu, options, "cpu.kvtrace.h5");
    const auto trace = Record(*MakeEngine({.ring_bytes = kRingBytes}), options, "device.kvtrace.h5");
    ExpectTheSameRun(*trace, *reference, 3e-3);
    EXPECT_TRUE(VerifyTrace(*trace).ok);
  }
}

TEST_P(OnDevice, EveryLayerIsTheCpusWithItsInput) {
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  for (const FidelityErrors& errors : CompareLayers(*model_, *engine, prompt_.ids)) {
    // Products of f16 with f16, 2^-11 at most each and a third of that as a rule.
    EXPECT_LT(errors.q, 6e-4);
    EXPECT_LT(errors.k, 6e-4);
    EXPECT_LT(errors.v, 6e-4);
    EXPECT_LT(errors.out, 1e-3);
    EXPECT_LT(errors.lse, 1e-3);
  }
}

TEST_P(OnDevice, TakesWeightsInBf16) {
  tiny_.tied_embeddings = false;
  Load(tiny_);
  CpuEngine cpu(*model_, DType::kF16);
  const auto reference = Record(cpu, {.logprobs = true}, "cpu.kvtrace.h5");
  const auto engine = MakeEngine({.weights = DenseType::kBF16, .ring_bytes = kRingBytes});
  const auto trace = Record(*engine, {.logprobs = true}, "device.kvtrace.h5");
  EXPECT_NE(trace->info().model.engine_flags.find("weights=bf16"), std::string::npos);
  ExpectTheSameRun(*trace, *reference, 1.6e-2);
  EXPECT_TRUE(VerifyTrace(*trace).ok) << "attention still uses what is recorded";
}

TEST_P(OnDevice, RecordsSomeLayersAndHeads) {
  CpuEngine cpu(*model_, DType::kF16);
  const RunOptions options{.layers = {0, 2}, .kv_heads = {1}};
  const auto reference = Record(cpu, options, "cpu.kvtrace.h5");
  const auto trace = Record(*MakeEngine({.ring_bytes = kRingBytes}), options, "device.kvtrace.h5");
  ExpectTheSameRun(*trace, *reference, 2e-3);
  EXPECT_TRUE(VerifyTrace(*trace).ok);
}

TEST_P(OnDevice, RecordsVectorsOrRowsAlone) {
  prompt_.ids.resize(20);
  prompt_.segments.clear();
  prompt_.forced_ids.resize(3);
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  const auto vectors = Record(*engine, {.level = TraceLevel::kQkv}, "qkv.kvtrace.h5");
  EXPECT_EQ(vectors->num_rows(), 0);
  EXPECT_EQ(static_cast<int>(vectors->q_token(0).size()), 23);
  const auto rows = Record(*engine, {.level = TraceLevel::kRows}, "rows.kvtrace.h5");
  EXPECT_EQ(rows->num_rows(), 3);
  const auto both = Record(*engine, {}, "both.kvtrace.h5");
  for (int layer = 0; layer < 3; ++layer) {
    const std::vector<Half> alone = rows->ReadRows(layer, 1).weights, beside = both->ReadRows(layer, 1).weights;
    ASSERT_EQ(alone.size(), beside.size());
    EXPECT_EQ(std::memcmp(alone.data(), beside.data(), alone.size() * sizeof(Half)), 0) << layer;
  }
}

TEST_P(OnDevice, CountsColumnsOnTheDevice) {
  LoadSmallest();  // many steps
  prompt_.ids.resize(20);
  prompt_.segments.clear();
  prompt_.forced_ids.clear();
  for (int i = 0; i < 70; ++i) prompt_.forced_ids.push_back(kTinyFirstByte + i % 200);  // more than one pass counts
  CpuEngine cpu(*model_, DType::kF16);
  const RunOptions options{.level = TraceLevel::kRelevance, .prefill_chunk = 16, .kv_heads = {1}};
  const auto reference = Record(cpu, options, "cpu.kvtrace.h5");
  const auto trace = Record(*MakeEngine({.ring_bytes = kRingBytes}), options, "device.kvtrace.h5");
  for (int layer = 0; layer < 2; ++layer) {
    const ColumnStatistics found = trace->ReadColumnStatistics(layer);
    const ColumnStatistics expected = reference->ReadColumnStatistics(layer);
    EXPECT_EQ(found.num_rows, 90);
    EXPECT_LT(RelativeError(found.sum, expected.sum), 2e-3) << layer;
    EXPECT_LT(RelativeError(found.max, expected.max), 5e-3) << layer;
  }
}

TEST_P(OnDevice, RunsWithoutASink) {
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  const TraceInfo info = MakeTraceInfo(engine->config(), engine->info(), "", prompt_, {});
  CpuEngine cpu(*model_, DType::kF16);
  const double expected = RunPrompt(cpu, tokenizer_.get(), prompt_, {}, info, nullptr).mean_nll;
  EXPECT_NEAR(RunPrompt(*engine, tokenizer_.get(), prompt_, {}, info, nullptr).mean_nll, expected, 5e-3);
  EXPECT_EQ(engine->capture_memory().device_bytes, 0);
}

TEST_P(OnDevice, TakesOneTokenAndNoAnswer) {
  prompt_.ids.resize(1);
  prompt_.segments.clear();
  prompt_.forced_ids.clear();
  prompt_.max_new = 0;
  CpuEngine cpu(*model_, DType::kF16);
  const auto reference = Record(cpu, {}, "cpu.kvtrace.h5");
  RunOutcome outcome;
  const auto trace = Record(*MakeEngine({.ring_bytes = kRingBytes}), {}, "device.kvtrace.h5", &outcome);
  EXPECT_EQ(outcome.steps, 0);
  ExpectTheSameRun(*trace, *reference, 2e-3);
}

void ExpectTheSame(const HoldingSink& device, const HoldingSink& cpu) {
  EXPECT_EQ(device.places, cpu.places);
  ASSERT_EQ(device.values.size(), cpu.values.size());
  for (size_t i = 0; i < cpu.values.size(); ++i) ASSERT_LT(RelativeError(device.values[i], cpu.values[i]), 5e-3) << i;
}

// Nobody asks for results between steps: nothing may be overwritten, whoever takes it when.
TEST_P(OnDevice, RecordsTheSameHoweverEarlyOrLateItIsTaken) {
  CpuEngine cpu(*model_, DType::kF16);
  const auto device = MakeEngine({.ring_bytes = kRingBytes});
  const std::span<const int> ids(prompt_.ids);
  const RunOptions options{.prefill_chunk = 12};
  const auto run = [&](Engine& engine, HoldingSink& sink) {
    const TraceInfo info = MakeTraceInfo(engine.config(), engine.info(), "", prompt_, options);
    engine.Begin(info, &sink, 24);
    engine.Run(ids.first(12), /*is_step=*/false);
    engine.Run(ids.subspan(12, 1), false);
    engine.Run(ids.subspan(13, 6), false);
    for (int step = 19; step < 24; ++step) engine.Run(ids.subspan(step, 1), /*is_step=*/true);
    sink.Release();
    EXPECT_EQ(engine.Best(1).ids.size(), 1u);
  };
  HoldingSink expected(/*wants_all=*/true, /*holds=*/false), early(true, false), late(true, /*holds=*/true);
  run(cpu, expected);
  run(*device, early);
  ExpectTheSame(early, expected);
  run(*device, late);
  ExpectTheSame(late, expected);
}

TEST_P(OnDevice, SendsColumnsOfTheirTimeHoweverLate) {
  CpuEngine cpu(*model_, DType::kF16);
  const auto device = MakeEngine({.ring_bytes = kRingBytes});
  const std::span<const int> ids(prompt_.ids);
  // Runs on the same engine that leave much behind: steps not counted, and another level and length.
  for (const TraceLevel level : {TraceLevel::kRelevance, TraceLevel::kQkvRows}) {
    HoldingSink before(/*wants_all=*/true, /*holds=*/false);
    const RunOptions other{.level = level, .prefill_chunk = 8};
    const TraceInfo info = MakeTraceInfo(device->config(), device->info(), "", prompt_, other);
    device->Begin(info, &before, 9);
    device->Run(ids.first(8), /*is_step=*/false);
    device->Run(ids.subspan(8, 1), /*is_step=*/true);
  }
  HoldingSink sinks[2] = {HoldingSink(/*wants_all=*/false, /*holds=*/false), HoldingSink(false, true)};
  const RunOptions options{.level = TraceLevel::kRelevance, .prefill_chunk = 12, .layers = {1, 2}, .kv_heads = {1}};
  for (const int i : {0, 1}) {
    Engine& engine = i == 0 ? static_cast<Engine&>(cpu) : *device;
    const TraceInfo info = MakeTraceInfo(engine.config(), engine.info(), "", prompt_, options);
    engine.Begin(info, &sinks[i], 22);
    engine.Run(ids.first(12), /*is_step=*/false);
    engine.SendColumns();
    engine.Run(ids.subspan(12, 7), false);
    engine.SendColumns();
    for (int step = 19; step < 22; ++step) engine.Run(ids.subspan(step, 1), /*is_step=*/true);
    engine.SendColumns();
    sinks[i].Release();
  }
  ExpectTheSame(sinks[1], sinks[0]);
}

constexpr int64_t kTwoPieces = 12 << 10;  // of a chunk of 16 tokens, which takes 6 KB at most

TEST_P(OnDevice, CountsTheTimeItWaitsForTheRing) {
  CpuEngine cpu(*model_, DType::kF16);
  const RunOptions options{.prefill_chunk = 16};
  const auto reference = Record(cpu, options, "cpu.kvtrace.h5");
  const auto engine = MakeEngine({.ring_bytes = kTwoPieces});
  const TraceInfo info = MakeTraceInfo(engine->config(), engine->info(), "", prompt_, options);
  const std::string path = folder_ / "slow.kvtrace.h5";
  {
    Recorder recorder(path, info, {});
    PassingSink slow(recorder, [&](int number) {
      if (number == 0) slow.WaitForPieces(2);
    });
    RunPrompt(*engine, tokenizer_.get(), prompt_, options, info, &slow);
    recorder.Finish();
    EXPECT_GT(recorder.total_stall_ns(), 0);
  }
  const auto trace = TraceReader::Open(path);
  ExpectTheSameRun(*trace, *reference, 2e-3);
  EXPECT_TRUE(VerifyTrace(*trace).ok);
  int64_t stall_ns = 0;
  for (const StepInfo& step : trace->steps()) stall_ns += step.stall_ns;
  EXPECT_GT(stall_ns, 0);
}

// The writer fails while the model waits for room: the model must hear of it, and the engine be fit for another run.
TEST_P(OnDevice, AWriterThatFailsDoesNotHoldTheModel) {
  // Three small pieces, of one token, and two large ones: the sixth needs the room of more than the first.
  prompt_.segments = {{"context", 0, 0, 1, true}, {"question", 0, 1, 40, false}};
  const RunOptions options{.prefill_chunk = 16};
  const auto engine = MakeEngine({.ring_bytes = kTwoPieces});
  const TraceInfo info = MakeTraceInfo(engine->config(), engine->info(), "", prompt_, options);
  {
    Recorder recorder(folder_ / "fails.kvtrace.h5", info, {});
    PassingSink failing(recorder, [&](int) {
      failing.WaitForPieces(5);
      throw Error("the disk is full");
    });
    try {
      RunPrompt(*engine, tokenizer_.get(), prompt_, options, info, &failing);
      FAIL() << "expected an error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "the disk is full");
    }
  }
  CpuEngine cpu(*model_, DType::kF16);
  const auto reference = Record(cpu, options, "cpu.kvtrace.h5");
  ExpectTheSameRun(*Record(*engine, options, "after.kvtrace.h5"), *reference, 2e-3);
}

TEST_P(OnDevice, RefusesARingThatNothingFits) {
  const auto engine = MakeEngine({.ring_bytes = 4096});
  const TraceInfo info = MakeTraceInfo(engine->config(), engine->info(), "", prompt_, {});
  MemoryTrace trace(info);
  MemorySink sink(trace);
  EXPECT_THROW(RunPrompt(*engine, tokenizer_.get(), prompt_, {}, info, &sink), Error);
}

TEST_P(OnDevice, RefusesAShapeThatTheKernelsDoNotTake) {
  ModelConfig config = model_->config;
  config.head_dim = 272;
  EXPECT_THROW(MakeRandomEngine(config), Error);
  config = model_->config;
  config.ffn = 60;
  EXPECT_THROW(MakeRandomEngine(config), Error);
}

TEST_P(OnDevice, RefusesAWeightOutsideF16) {
  const std::vector<float> row(model_->config.ffn, 1e5f);
  model_->layers[1].ffn.down.SetRow(3, row);
  try {
    MakeEngine({});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("ffn_down has weights outside f16's range"), std::string::npos)
        << error.what();
  }
  EXPECT_GT(MakeEngine({.weights = DenseType::kBF16})->weight_bytes(), 0);
}

TEST_P(OnDevice, NamesLayerAndTokenOutsideF16) {
  for (float& weight : model_->layers[1].attn_norm) weight *= 1e6f;
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  try {
    Record(*engine, {}, "bad.kvtrace.h5");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 1, token 0"), std::string::npos) << error.what();
  }
}

// Only that token's first dimension is not 0, which the norm makes huge. Its chunk says so, not a later one.
TEST_P(OnDevice, NamesATokenOfALaterChunk) {
  const int bad_id = kTinyFirstByte + 250, hidden = model_->config.hidden;
  PackedMatrix& embedding = model_->embedding;
  std::vector<float> row(hidden);
  for (int id = 0; id < embedding.outputs(); ++id) {
    for (int i = 0; i < hidden; ++i) row[i] = i == 0 ? (id == bad_id ? 1.0f : 0.0f) : embedding.At(id, i);
    embedding.SetRow(id, row);
  }
  model_->layers[0].attn_norm[0] = 1e7f;
  prompt_.ids[20] = bad_id;
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  try {
    Record(*engine, {.prefill_chunk = 16}, "bad.kvtrace.h5");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 0, token 20:"), std::string::npos) << error.what();
  }
}

TEST_P(OnDevice, NamesATokenWhoseLogitsAreNotFinite) {
  model_->output_norm[0] = INFINITY;
  prompt_.ids.resize(2);
  prompt_.segments.clear();
  try {
    Record(*MakeEngine({.ring_bytes = kRingBytes}), {}, "bad.kvtrace.h5");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("token 1: the logits"), std::string::npos) << error.what();
  }
}

TEST_P(OnDevice, FindsLogprobsOfMoreTokensThanItHoldsLogitsOf) {
  LoadSmallest();
  for (int i = 0; i < 70; ++i) prompt_.ids.push_back(kTinyFirstByte + i * 7 % 200);
  prompt_.ids.resize(70);
  const std::span<const int> ids(prompt_.ids);
  CpuEngine cpu(*model_, DType::kF16);
  const auto device = MakeEngine({});
  std::vector<float> logprobs[2];
  for (const int i : {0, 1}) {
    Engine& engine = i == 0 ? static_cast<Engine&>(cpu) : *device;
    const TraceInfo info = MakeTraceInfo(engine.config(), engine.info(), "", prompt_, {});
    engine.Begin(info, nullptr, 70);
    engine.Run(ids, /*is_step=*/false);
    logprobs[i] = engine.Logprobs(ids.subspan(1));
  }
  ASSERT_EQ(logprobs[1].size(), 69u);
  for (int i = 0; i < 69; ++i) EXPECT_NEAR(logprobs[1][i], logprobs[0][i], 2e-2) << i;
}

TEST_P(OnDevice, RunsRandomWeights) {
  ModelConfig config = model_->config;
  config.name = "random";
  config.vocab = 5;  // fewer than the best ids that are asked for
  for (int& id : prompt_.ids) id %= config.vocab;
  const auto engine = MakeRandomEngine(config);
  prompt_.forced_ids.clear();
  prompt_.max_new = 5;
  const TraceInfo info = MakeTraceInfo(config, engine->info(), "", prompt_, {});
  EXPECT_NE(info.model.engine_flags.find("random"), std::string::npos);
  MemoryTrace trace(info);
  MemorySink sink(trace);
  const RunOutcome outcome = RunPrompt(*engine, nullptr, prompt_, {}, info, &sink);
  EXPECT_EQ(outcome.steps, 5) << "no tokenizer, nothing ends it early";
  EXPECT_EQ(engine->Best(8).ids.size(), 5u);
  EXPECT_EQ(trace.tokens().pieces.back(), "<" + std::to_string(outcome.answer_ids.back()) + ">");
}

INSTANTIATE_TEST_SUITE_P(Backends, OnDevice,
                         testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                         [](const auto& test) { return Name(test.param); });

}  // namespace
}  // namespace kvscope
