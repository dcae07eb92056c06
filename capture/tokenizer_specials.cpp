// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer_specials.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

namespace kvscope {
namespace {

// White space as C's isspace has it.
bool IsSpace(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

struct Match {
  size_t begin;
  size_t length;
  const SpecialToken* token;
};

}  // namespace

void SpecialTokens::Add(std::string text, SpecialToken token) {
  std::vector<size_t>& lengths = lengths_[static_cast<unsigned char>(text[0])];
  if (std::find(lengths.begin(), lengths.end(), text.size()) == lengths.end()) lengths.push_back(text.size());
  token_from_text_.emplace(std::move(text), token);
}

std::optional<int> SpecialTokens::Find(std::string_view text) const {
  const auto found = token_from_text_.find(text);
  return found == token_from_text_.end() ? std::nullopt : std::optional(found->second.id);
}

std::vector<SpecialTokens::Part> SpecialTokens::Cut(std::string_view text, bool parse_special) const {
  std::vector<Match> matches;
  for (size_t at = 0; at < text.size(); ++at) {
    for (const size_t length : lengths_[static_cast<unsigned char>(text[at])]) {
      if (length > text.size() - at) continue;
      const auto found = token_from_text_.find(text.substr(at, length));
      if (found == token_from_text_.end() || (!parse_special && !found->second.is_always_parsed)) continue;
      matches.push_back({at, length, &found->second});
    }
  }
  std::sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
    return a.length != b.length         ? a.length > b.length
           : a.token->id != b.token->id ? a.token->id < b.token->id
                                        : a.begin < b.begin;
  });
  // What is taken is never shorter than what comes later, so an overlap always covers one of the latter's ends.
  std::map<size_t, Part> taken;
  const auto covers = [&](size_t byte) {
    const auto behind = taken.upper_bound(byte);
    return behind != taken.begin() && std::prev(behind)->second.end > byte;
  };
  for (const Match& match : matches) {
    size_t end = match.begin + match.length;
    if (covers(match.begin) || covers(end - 1)) continue;
    if (match.token->strips_right) {
      const auto next = taken.lower_bound(end);
      const size_t limit = next == taken.end() ? text.size() : next->first;
      while (end < limit && IsSpace(text[end])) ++end;
    }
    taken[match.begin] = {match.begin, end, match.token->id};
  }
  std::vector<Part> parts;
  size_t done = 0;
  for (const auto& [begin, part] : taken) {
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back(part);
    done = part.end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
  return parts;
}

const std::vector<RoleTexts>& SpecialRoles() {
  static const std::vector<RoleTexts> kRoles = {
      {SpecialRole::kEndOfTurn,
       "tokenizer.ggml.eot_token_id",
       true,
       {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>",
        "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"}},
      {SpecialRole::kEndOfMessage, "tokenizer.ggml.eom_token_id", true, {"<|eom_id|>"}},
      {SpecialRole::kFillPrefix,
       "tokenizer.ggml.fim_pre_token_id",
       false,
       {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>"}},
      {SpecialRole::kFillSuffix,
       "tokenizer.ggml.fim_suf_token_id",
       false,
       {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>"}},
      {SpecialRole::kFillMiddle,
       "tokenizer.ggml.fim_mid_token_id",
       false,
       {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>"}},
      {SpecialRole::kFillPad,
       "tokenizer.ggml.fim_pad_token_id",
       true,
       {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
      {SpecialRole::kFillRepo,
       "tokenizer.ggml.fim_rep_token_id",
       true,
       {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
      {SpecialRole::kFillFile, "tokenizer.ggml.fim_sep_token_id", true, {"<|file_sep|>"}},
  };
  return kRoles;
}

const std::vector<std::string_view>& EndTexts() {
  static const std::vector<std::string_view> kTexts = {"<|eot_id|>",
                                                       "<|im_end|>",
                                                       "<|end|>",
                                                       "<|return|>",
                                                       "<|call|>",
                                                       "<|flush|>",
                                                       "<|calls|>",
                                                       "<end_of_turn>",
                                                       "<|endoftext|>",
                                                       "</s>",
                                                       "<|eom_id|>",
                                                       "<EOT>",
                                                       "_<EOT>",
                                                       "[EOT]",
                                                       "[EOS]",
                                                       "<|end_of_text|>",
                                                       "<end_of_utterance>",
                                                       "<eos>",
                                                       "<turn|>",
                                                       "<|tool_response>",
                                                       "<｜end▁of▁sentence｜>",
                                                       "[e~["};
  return kTexts;
}

}  // namespace kvscope
