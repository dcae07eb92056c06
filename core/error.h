// SPDX-License-Identifier: Apache-2.0
// Two ways to fail. Bad input (a file, a flag, a model): throw Error with one sentence that says where, what was
// expected, what was found and what to do; main prints it and exits with 2. A bug of ours: KVSCOPE_CHECK, which
// prints the expression and the values and aborts. A CHECK must never be reachable from user input.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace kvscope {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Concatenates anything that has operator<<.
template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

[[noreturn]] void CheckFailed(const char* file, int line, const char* expression, const std::string& values);

}  // namespace kvscope

#define KVSCOPE_CHECK(condition)                                                  \
  do {                                                                            \
    if (!(condition)) ::kvscope::CheckFailed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

#define KVSCOPE_CHECK_OP(a, op, b)                                                                             \
  do {                                                                                                         \
    if (!((a)op(b)))                                                                                           \
      ::kvscope::CheckFailed(__FILE__, __LINE__, #a " " #op " " #b, ::kvscope::StrCat((a), " against ", (b))); \
  } while (false)
#define KVSCOPE_CHECK_EQ(a, b) KVSCOPE_CHECK_OP(a, ==, b)
#define KVSCOPE_CHECK_LE(a, b) KVSCOPE_CHECK_OP(a, <=, b)
#define KVSCOPE_CHECK_LT(a, b) KVSCOPE_CHECK_OP(a, <, b)
