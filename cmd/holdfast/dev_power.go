// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-ha/holdfast/sim/world"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	pduAgent  = "fence_apc_snmp"
	agentsDir = "/usr/sbin" // where workers look for fence agents
)

// pduTools names what a PDU needs on this machine and is not there.
func pduTools() string {
	var missing []string
	for _, name := range []string{filepath.Join(agentsDir, pduAgent), "snmpget", "snmpset", "snmpwalk"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, filepath.Base(name))
		}
	}
	return strings.Join(missing, ", ")
}

// devices are the power devices of a host: a BMC by IPMI, or by Redfish where it has that,
// and at level 2 the two PDUs that feed it, where the agent for them is installed.
func (f *devFleet) devices(p world.Place) []v1.Device {
	bmc := v1.Device{Name: "bmc", Level: 1, Driver: "ipmi", Address: p.BMC.String(), User: "env:" + bmcUser, Secret: "file:" + f.secretFile()}
	if f.opts.faces && p.Redfish.IsValid() {
		bmc.Driver, bmc.Address = "redfish", p.Redfish.String()
	}
	out := []v1.Device{bmc}
	if !f.opts.faces || p.Outlet == 0 {
		return out
	}
	if missing := pduTools(); missing != "" {
		f.noPDUs = fmt.Sprintf("host %s has no PDUs: %s not found (Debian packages fence-agents and snmp)", p.Host, missing)
		return out
	}
	for i, name := range []string{"pdu-a", "pdu-b"} {
		out = append(out, v1.Device{
			Name: name, Level: 2, Driver: "pdu", Address: p.PDUs[i].String(), Secret: "file:" + f.secretFile(),
			Params: map[string]string{"agent": pduAgent, "secret_as": "community", "trusted": "true", "outlets": strconv.Itoa(p.Outlet)},
		})
	}
	return out
}
