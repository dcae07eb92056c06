// placeholder until the page lands
#include "replay/study.h"
namespace kvscope {
const StudyArm* Study::Find(std::string_view) const {
  return nullptr;
}
std::vector<std::string> WriteStudyPage(const Study&, const std::string&, const std::string&) {
  return {};
}
std::string StudyMarkdown(const Study&) {
  return "";
}
}  // namespace kvscope
