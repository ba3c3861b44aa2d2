// Command coredns is a DNS server with only the plugins a test cluster needs:
// the stock binary links several dozen, cloud SDKs among them, which would
// multiply the build time.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// Directives is the order in which plugins see a query, and a plugin that
	// is missing from it is refused in the Corefile.
	dnsserver.Directives = []string{"ready", "health", "errors", "cache", "kubernetes", "forward"}
	coremain.Run()
}
