// SPDX-License-Identifier: Apache-2.0
// Needle runs by context length and depth, without a window: what many traces say of themselves, read one by one beside
// the frames, and what a policy left of each needle, from results or replayed.
#pragma once

#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/results.h"
#include "viewer/jobs.h"
#include "viewer/view_state.h"

namespace kvscope {

// One run with a needle, from a trace, from rows of results, or both.
struct GridRun {
  std::string run_id;
  std::string path;           // of its trace; empty: only results know the run
  double context = 0;         // tokens
  double depth = 0;           // share of the haystack before the needle, as asked
  double answer_score = NAN;  // of the recorded answer; NaN: nobody scored it
  double retention = NAN;     // needle tokens that the policy asked for kept; NaN: not known, or not yet
};

enum class GridFigure { kAnswer, kRetention };
double ValueOf(const GridRun& run, GridFigure figure);  // NaN: none

// Runs of one context length and depth.
struct GridCell {
  double value = NAN;                  // mean over the runs that have one
  int num_values = 0;                  // runs that have one
  std::vector<const GridRun*> runs{};  // the worst first, those without a value last
};
struct Grid {
  std::vector<double> contexts, depths;  // ascending
  std::vector<GridCell> cells;           // [depth, context]
  const GridCell& At(size_t depth, size_t context) const { return cells[depth * contexts.size() + context]; }
};
// The runs must outlive the answer.
Grid GridOf(const std::vector<GridRun>& runs, GridFigure figure);
// context, depth, run_id, trace, answer_score, needle_retention.
std::string GridCsv(const std::vector<GridRun>& runs);

// What results say this policy kept of the needle, by run_id; of replay where that is there, else of live. Mean over
// the queries of the answer: of a policy that decides once, the same as right after the decision.
std::map<std::string, double> RetentionFromRun(const Results& results, const PolicyChoice& choice, Protocol protocol);
// The share of needle tokens left right after the decision, mean over layers and KV heads. Throws Error; absent when
// cancelled.
std::optional<double> ReplayRetention(const std::string& trace_path, const PolicyChoice& choice, Protocol protocol,
                                      const std::atomic<bool>& is_cancelled);

class GridModel {
 public:
  using ResultsList = std::vector<std::shared_ptr<const Results>>;

  // Starts the next job: a trace's facts are read, or a run is replayed where retention is asked for.
  void Update(const std::vector<std::string>& traces, const ResultsList& results, const ViewState& view,
              GridFigure figure, Jobs& jobs);

  const std::vector<GridRun>& runs() const { return runs_; }
  const Grid& grid() const { return grid_; }
  const std::vector<std::string>& failures() const { return failures_; }  // sentences, one a trace
  int num_without_needle() const { return num_without_needle_; }          // traces left out
  struct Progress {
    size_t done = 0, all = 0;
  };
  const Progress& reading() const { return reading_; }      // traces
  const Progress& replaying() const { return replaying_; }  // runs

 private:
  struct Facts {  // of a trace
    GridRun run;
    bool has_needle = false;
    bool is_missing = false;  // only results named it
    std::string failure;
  };
  struct Replayed {
    double retention = NAN;
    std::string failure;
  };
  using ReplayKey = std::tuple<std::string, std::string, double, Protocol>;  // path, spec, budget
  // What the runs are made of.
  struct Inputs {
    std::vector<std::string> traces;
    ResultsList results;
    GridFigure figure = GridFigure::kAnswer;
    PolicyChoice choice;
    Protocol protocol = Protocol::kPrompt;
    size_t facts = 0, replays = 0;  // known so far
    friend bool operator==(const Inputs&, const Inputs&) = default;
  };

  static Facts ReadFacts(const std::string& path, bool must_exist);
  void Gather();
  void AddResultRuns(std::map<std::string, size_t>& index_from_run);
  void ReadNext(Jobs& jobs);
  void ReplayNext(Jobs& jobs);
  ReplayKey KeyOf(const std::string& path) const;

  Inputs inputs_;
  std::vector<std::string> paths_;  // of all traces: those open or listed, then those that results name
  std::map<std::string, Facts> facts_from_path_;
  std::map<ReplayKey, Replayed> replayed_;
  std::optional<ReplayKey> running_;
  std::vector<GridRun> runs_;
  Grid grid_;
  std::vector<std::string> failures_;
  int num_without_needle_ = 0;
  Progress reading_, replaying_;
};

}  // namespace kvscope
