#pragma once
// `coppice serve --backbone PATH --output DIR`: stays up and takes jobs over the network, until a signal
// stops it in order. On an existing DIR it goes on with every job that has not ended. Thread: main. Errors:
// kInvalid and the like before anything starts; kBusy where the address is in use.

#include <string>

#include "coordinator/cli/session.h"

namespace coppice {

struct ServeOptions {
  std::string backbone;
  std::string listen = "127.0.0.1:7420";
  bool insecure = false;  // another address than this host's own is accepted
  std::string progress = "auto";
  SessionOptions session;
};

// Exit status: 0 stopped in order by a signal.
int serve(const ServeOptions& options);

}  // namespace coppice
