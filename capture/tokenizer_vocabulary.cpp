// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer_vocabulary.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "capture/gguf.h"
#include "capture/word_splitter.h"
#include "core/error.h"

namespace kvscope {
namespace {

using TextIds = std::unordered_map<std::string_view, int>;  // views into the file

// Returns the byte of every character below U+0144, -1 for those that stand for none.
std::array<int, 324> ByteFromCharacter() {
  std::array<int, 324> bytes;
  bytes.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    bytes[static_cast<size_t>(is_printable ? byte : next++)] = byte;
  }
  return bytes;
}

// "<0x0A>": the byte, -1 when the text is none.
int ByteFromToken(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int byte = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    byte = byte * 16 + digit;
  }
  return byte;
}

bool IsSpecial(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

void ReadModel(const GgufFile& gguf, Vocabulary* vocabulary) {
  const std::string_view model = gguf.RequireString("tokenizer.ggml.model");
  if (model != "gpt2" && model != "llama") {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kOthers = {
        {{"bert", "WordPiece, "}, {"t5", "unigrams, "}, {"rwkv", "RWKV's, "}, {"plamo2", "PLaMo's, "}, {"gemma4", ""}}};
    const auto* other = std::find_if(kOthers.begin(), kOthers.end(), [&](const auto& o) { return o.first == model; });
    throw Error(StrCat(gguf.path(), ":tokenizer.ggml.model: expected byte-level BPE ('gpt2') or SentencePiece BPE ",
                       "('llama'), found ", other == kOthers.end() ? "" : other->second, "'", Printable(model),
                       "'; use a model with such a vocabulary"));
  }
  vocabulary->is_sentence_piece = model == "llama";
  if (!vocabulary->is_sentence_piece) {
    vocabulary->pre_tokenizer = gguf.RequireString("tokenizer.ggml.pre");
    vocabulary->adds_bos = WordSplitter::AddsBos(vocabulary->pre_tokenizer);
  } else {
    vocabulary->adds_bos = true;
    vocabulary->adds_space = gguf.Bool("tokenizer.ggml.add_space_prefix").value_or(true);
  }
  vocabulary->adds_bos = gguf.Bool("tokenizer.ggml.add_bos_token").value_or(vocabulary->adds_bos);
}

void ReadKinds(const GgufFile& gguf, size_t count, Vocabulary* vocabulary) {
  const auto types = gguf.IntArray("tokenizer.ggml.token_type").value_or(std::vector<int64_t>(count, 1));
  if (types.size() != count || count == 0 || count > (1u << 28)) {
    throw Error(StrCat(gguf.path(),
                       ":tokenizer.ggml.token_type: expected one type for each of 1 to 2^28 tokens, found ",
                       types.size(), " types and ", count, " tokens; the file is damaged"));
  }
  for (const int64_t type : types) {
    vocabulary->kinds.push_back(type >= 1 && type <= 6 ? static_cast<TokenKind>(type) : TokenKind::kUnused);
  }
  if (!vocabulary->is_sentence_piece) return;
  const auto scores = gguf.FloatArray("tokenizer.ggml.scores");
  if (!scores || scores->size() != count) {
    throw Error(StrCat(gguf.path(), ":tokenizer.ggml.scores: expected one for each of ", count, " tokens, found ",
                       scores ? scores->size() : 0, "; convert the model again"));
  }
  for (const double score : *scores) vocabulary->scores.push_back(static_cast<float>(score));
}

TextIds IndexTexts(const GgufFile& gguf, const std::vector<std::string_view>& texts) {
  TextIds id_from_text;
  for (size_t i = 0; i < texts.size(); ++i) {
    const int id = static_cast<int>(i);
    const auto [at, is_new] = id_from_text.emplace(texts[i], id);
    if (!is_new && !texts[i].empty()) {
      throw Error(StrCat(gguf.path(), ":tokenizer.ggml.tokens: expected every text once, found '", Printable(texts[i]),
                         "' as ", at->second, " and ", id, "; the file is damaged"));
    }
  }
  id_from_text.erase("");
  return id_from_text;
}

int OptionalId(const GgufFile& gguf, const char* key, size_t vocab_size) {
  if (!gguf.Has(key)) return -1;
  return static_cast<int>(gguf.RequireIntIn(key, 0, static_cast<int64_t>(vocab_size) - 1));
}

// SentencePiece's customary id where the file names none; BPE has no such custom.
int IdOr(const GgufFile& gguf, const char* key, int customary, const Vocabulary& vocabulary) {
  const auto size = static_cast<size_t>(vocabulary.size());
  if (gguf.Has(key) || !vocabulary.is_sentence_piece) return OptionalId(gguf, key, size);
  return customary < vocabulary.size() ? customary : -1;
}

// Which tokens have a role and which end an answer: named by the file, or known by their text. Such a token is a
// control token whatever type the file gives it.
void ReadEnds(const GgufFile& gguf, const TextIds& id_from_text, Vocabulary* vocabulary) {
  vocabulary->is_end.resize(vocabulary->kinds.size());
  const auto make_end = [&](int id) { vocabulary->is_end[static_cast<size_t>(id)] = true; };
  const auto make_control = [&](int id) { vocabulary->kinds[static_cast<size_t>(id)] = TokenKind::kControl; };
  vocabulary->bos_id = IdOr(gguf, "tokenizer.ggml.bos_token_id", 1, *vocabulary);
  vocabulary->eos_id = IdOr(gguf, "tokenizer.ggml.eos_token_id", 2, *vocabulary);
  vocabulary->end_of_turn_id = vocabulary->eos_id;
  for (const RoleTexts& role : SpecialRoles()) {
    int id = OptionalId(gguf, role.key, vocabulary->kinds.size());
    for (const std::string_view text : role.texts) {
      if (id >= 0) break;
      if (const auto found = id_from_text.find(text); found != id_from_text.end()) make_control(id = found->second);
    }
    if (id < 0) continue;
    if (role.is_end) make_end(id);
    if (role.role == SpecialRole::kEndOfTurn) vocabulary->end_of_turn_id = id;
  }
  for (const std::string_view text : EndTexts()) {
    const auto found = id_from_text.find(text);
    if (found == id_from_text.end()) continue;
    make_end(found->second);
    make_control(found->second);
  }
  if (vocabulary->eos_id >= 0) make_end(vocabulary->eos_id);
  // Two texts are ends in most vocabularies but not beside others: gpt-oss's <|end|> ends a message only, and </s> is
  // text where answers end otherwise.
  const auto unmake_end = [&](std::string_view text, TokenKind kind) {
    const auto found = id_from_text.find(text);
    if (found == id_from_text.end()) return;
    vocabulary->is_end[static_cast<size_t>(found->second)] = false;
    vocabulary->kinds[static_cast<size_t>(found->second)] = kind;
  };
  if (id_from_text.contains("<|return|>") && id_from_text.contains("<|call|>"))
    unmake_end("<|end|>", TokenKind::kUserDefined);
  if (id_from_text.contains("<|tool_response>")) unmake_end("</s>", TokenKind::kNormal);
}

// What the token stands for.
std::string PieceOf(const GgufFile& gguf, const Vocabulary& vocabulary, std::string_view text, int id) {
  const TokenKind kind = vocabulary.kinds[static_cast<size_t>(id)];
  if (IsSpecial(kind)) return std::string(text);
  if (!vocabulary.is_sentence_piece) return BytesFromText(text, nullptr);
  if (kind != TokenKind::kByte) return WithSpaces(text);
  const int byte = ByteFromToken(text);
  if (byte < 0) {
    throw Error(StrCat(gguf.path(), ":tokenizer.ggml.tokens[", id, "]: expected a byte as '<0x0A>', found '",
                       Printable(text), "'; the file is damaged"));
  }
  return std::string(1, static_cast<char>(byte));
}

// Phi-3's tokens take the white space behind them; the file does not say so, hence by name as in llama.cpp.
bool StripsRight(const GgufFile& gguf) {
  std::string name(gguf.String("general.name").value_or(""));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
}

void CheckBos(const GgufFile& gguf, const Vocabulary& vocabulary) {
  if (!vocabulary.adds_bos || vocabulary.bos_id >= 0) return;
  throw Error(StrCat(gguf.path(), ":tokenizer.ggml.bos_token_id: expected the token that begins every text, as ",
                     "tokenizer.ggml.add_bos_token or the pre-tokenizer says, found none; convert the model again"));
}

}  // namespace

std::string BytesFromText(std::string_view text, bool* is_alphabet) {
  static const std::array<int, 324> kBytes = ByteFromCharacter();
  std::string bytes;
  if (is_alphabet) *is_alphabet = true;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto first = static_cast<unsigned char>(text[i]);
    size_t character = first;
    size_t length = 1;
    if ((first & 0xE0) == 0xC0 && i + 1 < text.size()) {
      character = (first & 31u) << 6 | (static_cast<unsigned char>(text[i + 1]) & 63u);
      length = 2;
    }
    if (character < kBytes.size() && kBytes[character] >= 0 && (length == 2 || first < 128)) {
      bytes += static_cast<char>(kBytes[character]);
    } else {
      bytes += text.substr(i, length);
      if (is_alphabet) *is_alphabet = false;
    }
    i += length - 1;
  }
  return bytes;
}

std::string WithSpaces(std::string_view text) {
  std::string plain;
  for (size_t at; (at = text.find(kSpaceSign)) != std::string_view::npos; text.remove_prefix(at + kSpaceSign.size())) {
    plain += text.substr(0, at);
    plain += ' ';
  }
  return plain.append(text);
}

void FailWithoutByte(const Vocabulary& vocabulary, char byte, size_t offset) {
  throw Error(StrCat("text: expected bytes that the vocabulary of ", vocabulary.path, " has tokens for, found ",
                     Printable(std::string_view(&byte, 1)), " at byte ", offset, "; remove that character"));
}

Vocabulary ReadVocabulary(const GgufFile& gguf) {
  Vocabulary vocabulary;
  vocabulary.path = gguf.path();
  ReadModel(gguf, &vocabulary);
  const std::vector<std::string_view> texts = gguf.RequireStringArray("tokenizer.ggml.tokens");
  ReadKinds(gguf, texts.size(), &vocabulary);
  const TextIds id_from_text = IndexTexts(gguf, texts);
  ReadEnds(gguf, id_from_text, &vocabulary);
  CheckBos(gguf, vocabulary);
  const bool strips_right = StripsRight(gguf);
  for (size_t i = 0; i < texts.size(); ++i) {
    const int id = static_cast<int>(i);
    const TokenKind kind = vocabulary.kinds[i];
    vocabulary.begins.push_back(vocabulary.pieces.size());
    vocabulary.pieces += PieceOf(gguf, vocabulary, texts[i], id);
    vocabulary.is_special.push_back(IsSpecial(kind));
    if (!IsSpecial(kind) || texts[i].empty()) continue;
    const bool keeps_right = texts[i] == "<unk>" || texts[i] == "<s>" || texts[i] == "<|endoftext|>";
    vocabulary.specials.Add(std::string(texts[i]), {id, kind == TokenKind::kUserDefined, strips_right && !keeps_right});
  }
  vocabulary.begins.push_back(vocabulary.pieces.size());
  return vocabulary;
}

}  // namespace kvscope
