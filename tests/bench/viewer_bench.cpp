// SPDX-License-Identifier: Apache-2.0
// The viewer on a long trace: a file of one layer of a 32 x 32 model is written to a temporary folder, with data of the
// heads that are looked at only, and opened as the window does. One JSON line a figure.
//   viewer_bench [TOKENS [HEADS]]      131072 3
#include <imgui.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/trace_writer.h"
#include "viewer/app.h"
#include "viewer/shell.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

constexpr int kDim = 128, kChunk = 8192, kWidth = 1500, kHeight = 900;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double ThreadMillis() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

// Of all threads: what a wall-clock figure would be without others on the machine is this over the number of cores.
double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double PeakMegabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

// Scores of random q and k have a variance of 1, so that lse is about log(tokens seen) + 1/2; a little more, so that no
// weight exceeds 1. The last tokens ask for a needle in the middle.
void WriteTrace(const std::string& path, int tokens, int num_heads) {
  TraceInfo info;
  info.run_id = "viewer_bench", info.level = TraceLevel::kQkv;
  info.model.name = "random", info.model.num_layers = 32, info.model.query_rows = "all";
  info.rope_sets.push_back({"default", std::vector<double>(kDim / 2, 1.0), 1.0});
  LayerInfo layer;
  layer.layer = 17, layer.num_heads = layer.num_kv_heads = 32, layer.head_dim_k = layer.head_dim_v = kDim;
  layer.scale = 1 / std::sqrt(static_cast<float>(kDim));
  for (int head = 0; head < num_heads; ++head) layer.heads.push_back(head * 32 / num_heads);
  layer.kv_heads = layer.heads;
  info.layers.push_back(layer);
  info.prompt_tokens = tokens;
  info.segments = {{"context", 0, 0, tokens - 40, true}, {"question", 0, tokens - 40, tokens, false}};
  const int needle = tokens / 2;
  info.spans = {{"needle", needle, needle + 15, "the needle"}, {"question", tokens - 40, tokens, "the question"}};

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<Half> pool(1 << 20), needle_key(kDim);
  for (Half& half : pool) half = HalfFromFloat(normal(random));
  for (Half& half : needle_key) half = HalfFromFloat(normal(random) * 1.2f);
  float needle_score = 0;
  for (const Half half : needle_key) needle_score += FloatFromHalf(half) * FloatFromHalf(half) * layer.scale;
  TraceWriter writer(path, info, {.flush_interval_secs = 10, .overwrite = true});
  for (int first = 0; first < tokens; first += kChunk) {
    const int count = std::min(kChunk, tokens - first);
    LayerChunk chunk{.num_tokens = count, .q = {}, .k = {}, .v = {}, .lse = {}};
    for (Buffer* const buffer : {&chunk.q, &chunk.k, &chunk.v}) {
      *buffer = Buffer(DType::kF16, static_cast<size_t>(num_heads) * count * kDim);
      // Queries are cut from one half of the pool, keys and values from the other: no query is a key.
      const size_t half = pool.size() / 2, from = buffer == &chunk.q ? 0 : half;
      for (size_t at = 0; at < buffer->size(); at += kDim)
        std::copy_n(&pool[from + random() % (half - kDim)], kDim, &buffer->halves()[at]);
    }
    for (int head = 0; head < num_heads; ++head) {
      for (int token = first; token < first + count; ++token) {
        const int64_t at = (int64_t{head} * count + token - first) * kDim;
        const bool asks = token >= tokens - 40;
        chunk.lse.push_back(
            std::log(static_cast<float>(token + 400) * 1.6f + (asks ? 15 * std::exp(needle_score) : 0)));
        if (asks) std::copy(needle_key.begin(), needle_key.end(), chunk.q.halves().begin() + at);
        if (token >= needle && token < needle + 15)
          std::copy(needle_key.begin(), needle_key.end(), chunk.k.halves().begin() + at);
      }
    }
    writer.AppendChunk(0, first, chunk);
    TraceTokens some;
    for (int token = first; token < first + count; ++token) {
      some.ids.push_back(token % 1000);
      some.pieces.push_back(StrCat(" w", token % 1000, token % 40 == 39 ? "\n" : ""));
    }
    some.positions.resize(count);
    for (int i = 0; i < count; ++i) some.positions[i] = first + i;
    some.logprobs.assign(count, -1.0f);
    writer.AppendTokens(some);
  }
  writer.Finish();
}

// Frames, as a window would draw them, until something is so.
double SecondsUntil(Jobs& jobs, const std::function<void()>& frame, const std::function<bool()>& is_so) {
  const double begin = Seconds();
  while (true) {
    jobs.Deliver();
    frame();
    if (is_so()) return Seconds() - begin;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void MeasureMaps(const std::string& path, int num_heads) {
  ViewState view;
  {
    Jobs jobs;
    TraceDocument document(path, jobs);
    const double open = SecondsUntil(
        jobs, [] {}, [&] { return document.state() != TraceDocument::State::kLoading; });
    if (document.state() == TraceDocument::State::kFailed) throw Error(document.failure());
    const double idle = PeakMegabytes();
    HeatmapModel model;
    const auto frame = [&] { model.Update(document, view, kWidth, kHeight, {}, jobs); };
    const double cpu = CpuSeconds();
    const double first = SecondsUntil(jobs, frame, [&] { return model.image() != nullptr; });
    const double first_cpu = CpuSeconds() - cpu;
    const double rest = SecondsUntil(jobs, frame, [&] { return model.progress() == 1; });
    std::printf(
        "{\"benchmark\": \"viewer: a head asked for\", \"tokens\": %d, \"head_dim\": %d, \"open_secs\": %.3f, "
        "\"first_picture_secs\": %.3f, \"first_picture_cpu_secs\": %.3f, \"exact_secs\": %.2f, \"exact_cpu_secs\": "
        "%.2f, "
        "\"opened_rss_mb\": %.0f, \"peak_rss_mb\": %.0f}\n",
        document.num_tokens(), kDim, open, first, first_cpu, first + rest, CpuSeconds() - cpu, idle, PeakMegabytes());
    // Every other head, as far as a few pictures, back and forth.
    for (int i = 1; i < 4 * num_heads; ++i) {
      view.head_index = i % num_heads;
      const int generation = model.generation();
      SecondsUntil(jobs, frame, [&] { return model.generation() >= generation + 3 || model.progress() == 1; });
    }
    std::printf(
        "{\"benchmark\": \"viewer: heads looked at in turn\", \"heads\": %d, \"looks\": %d, \"peak_rss_mb\": %.0f}\n",
        num_heads, 4 * num_heads - 1, PeakMegabytes());
    view.head_index = 0;  // which is found at once: jobs end before what they work on
    SecondsUntil(jobs, frame, [&] { return jobs.IsIdle(); });
  }
  const double begin = Seconds();
  Jobs jobs;
  TraceDocument document(path, jobs);
  SecondsUntil(
      jobs, [] {}, [&] { return document.state() == TraceDocument::State::kReady; });
  const double open = Seconds() - begin;
  HeatmapModel model;
  view.head_index = 0;
  SecondsUntil(
      jobs, [&] { model.Update(document, view, kWidth, kHeight, {}, jobs); }, [&] { return model.progress() == 1; });
  std::printf("{\"benchmark\": \"viewer: second opening\", \"open_secs\": %.3f, \"exact_picture_secs\": %.3f}\n", open,
              Seconds() - begin - open);
}

// Zooms and pans over the map and measures what a frame costs its own thread, from the first call to finished draw
// data.
class MovingFrame final : public Frame {
 public:
  MovingFrame(const std::string& path, const std::string& panel)
      : app_({.paths = {path}, .only_panel = panel, .layer = {}, .head = {}, .view = {}}) {}
  void Draw() override {
    ImGuiIO& io = ImGui::GetIO();
    const int step = static_cast<int>(millis_.size());
    const float x = io.DisplaySize.x * 0.6f, y = io.DisplaySize.y * 0.4f;
    if (is_settled_) {
      const int phase = step % 60;
      if (phase < 20) {
        io.AddMousePosEvent(x, y);
        io.AddMouseWheelEvent(0, step % 120 < 60 ? 0.5f : -0.5f);
      } else {
        io.AddMousePosEvent(x + static_cast<float>(phase - 20) * 4, y + static_cast<float>(phase - 20) * 2);
        io.AddMouseButtonEvent(ImGuiMouseButton_Left, phase < 55);
      }
    }
    const double begin = ThreadMillis();
    app_.Draw();
    ImGui::Render();
    if (is_settled_) millis_.push_back(ThreadMillis() - begin);
    is_settled_ = is_settled_ || (++frames_ > 20 && !app_.IsBusy());
  }
  bool IsBusy() const override { return millis_.size() < kFrames; }
  void Report(const char* what) {
    std::ranges::sort(millis_);
    std::printf(
        "{\"benchmark\": \"viewer: frame while zooming and panning\", \"panels\": \"%s\", \"frames\": %zu, "
        "\"median_cpu_ms\": %.2f, \"p99_cpu_ms\": %.2f, \"largest_cpu_ms\": %.2f}\n",
        what, millis_.size(), millis_[millis_.size() / 2], millis_[millis_.size() * 99 / 100], millis_.back());
  }

 private:
  static constexpr size_t kFrames = 600;
  App app_;
  bool is_settled_ = false;
  int frames_ = 0;
  std::vector<double> millis_;
};

void MeasureFrames(const std::string& path) {
  for (const char* const panel : {"heatmap", "text", ""}) {
    MovingFrame frame(path, panel);
    RenderOffscreen(frame, {.width = 1600, .height = 1000}, 600);
    frame.Report(*panel ? panel : "all");
  }
  std::printf("{\"benchmark\": \"viewer: in the end\", \"peak_rss_mb\": %.0f}\n", PeakMegabytes());
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  const int tokens = argc > 1 ? std::atoi(argv[1]) : 131072, heads = argc > 2 ? std::atoi(argv[2]) : 3;
  if (argc > 3 || tokens < 1024 || heads < 1 || heads > 32) {
    std::fprintf(stderr, "usage: viewer_bench [TOKENS [HEADS]]\n");
    return 2;
  }
  const kvscope::fs::path folder = kvscope::fs::temp_directory_path() / kvscope::StrCat("viewer_bench_", getpid());
  kvscope::fs::create_directories(folder);
  int result = 0;
  try {
    const std::string path = folder / "long.kvtrace.h5";
    kvscope::WriteTrace(path, tokens, heads);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    kvscope::MeasureMaps(path, heads);
    kvscope::MeasureFrames(path);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "viewer_bench: %s\n", error.what());
    result = 1;
  }
  kvscope::fs::remove_all(folder);
  return result;
}
