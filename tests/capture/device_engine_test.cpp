// SPDX-License-Identifier: Apache-2.0
// A run on a device against the same run on the CPU: on the device at hand, and on the emulated one, whose streams are
// eager or as late as they may be.
#include "capture/device_engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <thread>

#include "capture/cpu_engine.h"
#include "capture/recorder.h"
#include "capture/run.h"
#include "core/error.h"
#include "core/trace_reader.h"
#include "kernels/device.h"
#include "tests/support/capture_fidelity.h"
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
    TinyGgufOptions tiny;
    tiny.layers = 3, tiny.heads = 4, tiny.kv_heads = 2, tiny.head_dim = 16, tiny.ffn = 96;
    Load(tiny);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Load(const TinyGgufOptions& options) {
    gguf_ = std::make_unique<GgufFile>(GgufFile::FromBytes("tiny", TinyGgufBytes(options)));
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::FromGguf(*gguf_));
    model_ = LoadModel(*gguf_);
    const std::vector<int> text = tokenizer_->Encode(
        "The quick brown fox jumps over the lazy dog, twice over, and then it rests a while.", false);
    prompt_ = {};
    prompt_.ids.assign(text.begin(), text.begin() + 40);
    prompt_.forced_ids.assign(text.begin() + 40, text.begin() + 47);
    prompt_.segments = {{"context", 0, 0, 33, true}, {"question", 0, 33, 40, false}};
    prompt_.task.name = "prompt";
  }

  std::unique_ptr<DeviceEngine> MakeEngine(const DeviceOptions& options) const {
    return IsEmulated(GetParam()) ? cuda_emulated::MakeDeviceEngine(*model_, options)
                                  : cuda::MakeDeviceEngine(*model_, options);
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
std::vector<float> Floats(const Buffer& buffer) {
  std::vector<float> floats(buffer.size());
  FloatsFromHalves(buffer.halves(), floats);
  return floats;
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
  const auto engine = MakeEngine({.ring_bytes = kRingBytes});
  const auto vectors = Record(*engine, {.level = TraceLevel::kQkv}, "qkv.kvtrace.h5");
  EXPECT_EQ(vectors->num_rows(), 0);
  EXPECT_EQ(static_cast<int>(vectors->q_token(0).size()), 47);
  const auto rows = Record(*engine, {.level = TraceLevel::kRows}, "rows.kvtrace.h5");
  EXPECT_EQ(rows->num_rows(), 7);
}

TEST_P(OnDevice, CountsColumnsOnTheDevice) {
  prompt_.ids.resize(20);
  prompt_.segments.clear();
  prompt_.forced_ids.clear();
  for (int i = 0; i < 70; ++i) prompt_.forced_ids.push_back(kTinyFirstByte + i % 200);  // more than one pass counts
  CpuEngine cpu(*model_, DType::kF16);
  const RunOptions options{.level = TraceLevel::kRelevance, .prefill_chunk = 16, .layers = {1, 2}, .kv_heads = {1}};
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

// A sink that takes its time: the ring fills, the model waits, and the file says so.
class SlowSink final : public RunSink {
 public:
  explicit SlowSink(Recorder& recorder) : recorder_(recorder) {}
  void AppendTokens(TraceTokens tokens) override { recorder_.AppendTokens(std::move(tokens)); }
  void AppendChunk(int, int, LayerChunk) override { FAIL() << "only deferred"; }
  bool wants_rows() const override { return true; }
  void AppendRows(int, int, std::vector<Half>) override { FAIL() << "only deferred"; }
  void AppendStep(StepInfo step) override { recorder_.AppendStep(std::move(step)); }
  void SetLogprobs(int first_token, std::vector<float> logprobs) override {
    recorder_.SetLogprobs(first_token, std::move(logprobs));
  }
  void SetSegments(std::vector<Segment> segments, std::vector<Span> spans) override {
    recorder_.SetSegments(std::move(segments), std::move(spans));
  }
  void SetAnswer(TraceAnswer answer) override { recorder_.SetAnswer(std::move(answer)); }
  void Defer(std::function<void(RunSink&)> job) override {
    // The first piece of the prompt, and of the steps: three layers and three chunks come before.
    recorder_.Defer([job = std::move(job), is_first = num_deferred_ == 0 || num_deferred_ == 9](RunSink& file) {
      if (is_first) std::this_thread::sleep_for(std::chrono::milliseconds(500));
      job(file);
    });
    ++num_deferred_;
  }
  void CountStall(int64_t ns) override { recorder_.CountStall(ns); }

 private:
  Recorder& recorder_;
  int num_deferred_ = 0;
};

TEST_P(OnDevice, CountsTheTimeItWaitsForTheRing) {
  CpuEngine cpu(*model_, DType::kF16);
  const RunOptions options{.prefill_chunk = 16};
  const auto reference = Record(cpu, options, "cpu.kvtrace.h5");
  const auto engine = MakeEngine({.ring_bytes = 24 << 10});  // a chunk of a layer is some 8 KB
  const TraceInfo info = MakeTraceInfo(engine->config(), engine->info(), "", prompt_, options);
  const std::string path = folder_ / "slow.kvtrace.h5";
  {
    Recorder recorder(path, info, {});
    SlowSink slow(recorder);
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

TEST_P(OnDevice, RefusesARingThatNothingFits) {
  const auto engine = MakeEngine({.ring_bytes = 4096});
  const TraceInfo info = MakeTraceInfo(engine->config(), engine->info(), "", prompt_, {});
  MemoryTrace trace(info);
  MemorySink sink(trace);
  EXPECT_THROW(RunPrompt(*engine, tokenizer_.get(), prompt_, {}, info, &sink), Error);
}

TEST_P(OnDevice, NamesLayerAndTokenOutsideF16) {
  for (float& weight : model_->layers[1].attn_norm) weight *= 1e6f;
  try {
    Record(*MakeEngine({.ring_bytes = kRingBytes}), {}, "bad.kvtrace.h5");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 1, token 0"), std::string::npos) << error.what();
  }
}

TEST_P(OnDevice, RunsRandomWeights) {
  ModelConfig config = model_->config;
  config.name = "random";
  const DeviceOptions options{.ring_bytes = kRingBytes};
  const auto engine = IsEmulated(GetParam()) ? cuda_emulated::MakeRandomEngine(config, options)
                                             : cuda::MakeRandomEngine(config, options);
  prompt_.forced_ids.clear();
  prompt_.max_new = 5;
  const TraceInfo info = MakeTraceInfo(config, engine->info(), "", prompt_, {});
  EXPECT_NE(info.model.engine_flags.find("random"), std::string::npos);
  MemoryTrace trace(info);
  MemorySink sink(trace);
  const RunOutcome outcome = RunPrompt(*engine, nullptr, prompt_, {}, info, &sink);
  EXPECT_EQ(outcome.steps, 5) << "no tokenizer, nothing ends it early";
  EXPECT_EQ(trace.tokens().pieces.back(), "<" + std::to_string(outcome.answer_ids.back()) + ">");
}

INSTANTIATE_TEST_SUITE_P(Backends, OnDevice,
                         testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                         [](const auto& test) { return Name(test.param); });

}  // namespace
}  // namespace kvscope
