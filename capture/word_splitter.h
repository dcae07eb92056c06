// SPDX-License-Identifier: Apache-2.0
// Pre-tokenizers: named lists of regular expressions that cut text into words before byte-pair encoding. Each
// expression cuts the pieces left by the one before it; what it does not match stays as a piece of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

class WordSplitter {
 public:
  // Error when no table entry has this name (tokenizer.ggml.pre); `place` stands in the message.
  WordSplitter(std::string_view name, std::string_view place);
  WordSplitter(const WordSplitter&) = delete;
  WordSplitter& operator=(const WordSplitter&) = delete;
  ~WordSplitter();

  static std::vector<std::string> Names();
  // Whether vocabularies with this name put a begin-of-text token before a text, where they do not say. Any name.
  static bool AddsBos(std::string_view name);
  // Whether a word that is a token is taken as it is, also where merges would not lead to it.
  bool takes_whole_words() const { return takes_whole_words_; }

  // Working memory of one call of ForEachWord after another; one for each thread.
  class Scratch {
   public:
    explicit Scratch(const WordSplitter& splitter);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class WordSplitter;
    struct Match;
    std::vector<std::unique_ptr<Match>> matches_;  // one for each expression
  };

  // Calls word(piece) from left to right; the pieces put together are the text, which must be valid UTF-8.
  void ForEachWord(std::string_view text, Scratch* scratch, const std::function<void(std::string_view)>& word) const;

 private:
  struct Expression;
  void Cut(size_t stage, std::string_view text, Scratch* scratch,
           const std::function<void(std::string_view)>& word) const;

  std::vector<std::unique_ptr<Expression>> expressions_;
  bool takes_whole_words_ = false;
};

}  // namespace kvscope
