#pragma once
// Lets the system find out that the other end of an idle connection is gone without a word (a host that lost
// its power, a cable): it asks after a minute and gives up two minutes later. Thread: any. Errors: none; a
// system that does not know it goes without.

namespace coppice {

void keep_alive(int socket);

}  // namespace coppice
