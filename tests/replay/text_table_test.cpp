// SPDX-License-Identifier: Apache-2.0
#include "replay/text_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/replay_fake_results.h"

namespace kvscope {
namespace {

using ::testing::HasSubstr;

TEST(AlignedTable, AlignsByWhatPeopleSee) {
  EXPECT_EQ(AlignedTable({{"policy", "ρ"}, {"h2o", "12"}, {"–", "3.5"}}),
            "policy    ρ\n"
            "───────────\n"
            "h2o      12\n"
            "–       3.5\n");
}

TEST(SummaryTable, PutsReplayAndLiveOnOneLine) {
  Results results;
  results.rows.resize(3);
  const char* modes[] = {"replay", "live", "live"};
  for (int i = 0; i < 3; ++i) {
    ResultRow& row = results.rows[i].figures;
    row.Set("mode", modes[i]);
    row.Set("policy", i < 2 ? "h2o" : "tova");
    row.Set("task", "niah");
    row.Set("keep_fraction_asked", 0.25);
    row.Set("kept_fraction", 0.25);
  }
  results.rows[0].figures.Set("attention_loss", 0.125);
  results.rows[0].figures.Set("needle_retention", 0.5);
  results.rows[1].figures.Set("metric_value", 0.8);
  results.rows[1].figures.Set("n", 5.0);
  results.rows[1].figures.Set("answer_nll", 1.5);
  results.rows[1].figures.Set("kept_bytes_mean", 11796480.0);
  results.rows[2].figures.Set("metric_value", 0.5);
  results.rows[2].figures.Set("n", 4.0);
  const std::string table = SummaryTable(results);
  EXPECT_THAT(
      table,
      HasSubstr("h2o     25\u00a0%     80\u00a0% (4/5)        1.50           0.125         50\u00a0%   11.8 MB\n"));
  EXPECT_THAT(table,
              HasSubstr("tova    25\u00a0%            2/4           –               –            –         –\n"));
}

TEST(RefusalText, NamesTheFirstOfThoseRefused) {
  Results results;
  results.rows.resize(3);
  EXPECT_EQ(RefusalText(results), "");
  results.rows[1].figures.Set("policy", "fastkv");
  results.rows[1].figures.Set("refused_reason", "a window");
  results.rows[2].figures.Set("refused_reason", "another");
  EXPECT_EQ(RefusalText(results), "2 of 3 rows were refused, the first: fastkv: a window");
}

TEST(SummaryTable, LeavesOutWhatNoRunMeasured) {
  Results results;
  results.rows.resize(1);
  ResultRow& row = results.rows[0].figures;
  row.Set("mode", "live");
  row.Set("policy", "h2o");
  row.Set("task", "text");
  row.Set("perplexity", 47.5);
  row.Set("kl", 0.25);
  const std::string table = SummaryTable(results);
  EXPECT_THAT(table, HasSubstr("policy  perplexity  live KL\n"));
  EXPECT_THAT(table, HasSubstr("h2o           47.5    0.250\n"));
}

TEST(SummaryTable, ListsTheFullCacheFirst) {
  FakeResultsOptions options;
  options.tokens = 160;
  options.policies = {"h2o", "random", "full"};
  const std::string table = SummaryTable(MergeResults(std::vector<Results>{FakeReplay(options), FakeLive(options)}));
  EXPECT_LT(table.find("full"), table.find("random"));
  EXPECT_LT(table.find("random"), table.find("h2o"));
}

}  // namespace
}  // namespace kvscope
