// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

const (
	root        = "/redfish/v1"
	systemsURI  = root + "/Systems"
	managersURI = root + "/Managers"
	chassisURI  = root + "/Chassis"
	tasksURI    = root + "/TaskService/Tasks"
	monitorsURI = root + "/TaskService/TaskMonitors"

	// transitionFor ends a transition that somebody else overtook through another face.
	transitionFor = 2 * time.Minute
)

// system is a computer system and what was last asked of it.
type system struct {
	System
	name  string // in the truth log
	moves bool   // since a hard off or on was executed, until the chassis is there
	want  bool
	since time.Time
	lit   string // as IndicatorLED has it
}

func (s *system) uri() string { return systemsURI + "/" + s.ID }

// settling reports whether the chassis is still on its way.
func (s *system) settling(now time.Time) bool {
	if s.moves && (s.Chassis.Power() == s.want || now.Sub(s.since) > transitionFor) {
		s.moves = false
	}
	return s.moves
}

func resource(uri, kind, id, name string, more map[string]any) map[string]any {
	out := map[string]any{"@odata.id": uri, "@odata.type": kind, "Id": id, "Name": name}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func link(uri string) map[string]any { return map[string]any{"@odata.id": uri} }

func collection(uri, kind, name string, members ...string) answer {
	links := make([]any, len(members))
	for i, m := range members {
		links[i] = link(m)
	}
	body := resource(uri, "#"+kind+"."+kind, "", name, map[string]any{"Members": links, "Members@odata.count": len(members)})
	delete(body, "Id")
	return answer{status: http.StatusOK, body: body}
}

// failure is an error answer in the form of DSP0266 §8.6.
func failure(status int, id, message string) answer {
	id = "Base.1.8." + id
	return answer{status: status, body: map[string]any{"error": map[string]any{
		"code": id, "message": message,
		"@Message.ExtendedInfo": []any{map[string]any{"@odata.type": "#Message.v1_1_1.Message", "MessageId": id, "Message": message, "Severity": "Critical"}},
	}}}
}

func notFound() answer {
	return failure(http.StatusNotFound, "ResourceMissingAtURI", "The resource was not found.")
}
func notAllowed() answer {
	return failure(http.StatusMethodNotAllowed, "OperationNotAllowed", "The HTTP method is not allowed on this resource.")
}
func forbidden() answer {
	return failure(http.StatusForbidden, "InsufficientPrivilege", "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.")
}
func unauthorized() answer {
	a := failure(http.StatusUnauthorized, "NoValidSession", "There is no valid session established with the implementation.")
	a.header = map[string]string{"WWW-Authenticate": `Basic realm="redfish"`}
	return a
}
func busy(status int, id, message string) answer {
	a := failure(status, id, message)
	a.header = map[string]string{"Retry-After": "3"}
	return a
}

// handle finds and runs a request.
func (s *Server) handle(r *http.Request, body []byte, f Faults) answer {
	s.work.Lock()
	defer s.work.Unlock()
	now := s.cfg.Now()
	s.expire(now)
	path := strings.TrimSuffix(r.URL.Path, "/")
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case path == "/redfish" && read:
		return answer{status: http.StatusOK, body: map[string]any{"v1": root + "/"}}
	case path == root && read:
		return s.serviceRoot()
	case path == sessionsURI && r.Method == http.MethodPost:
		return s.postSession(body, f, now)
	}
	c, ok := s.authenticate(r, f, now)
	switch {
	case !ok:
		return unauthorized()
	case f.Forbidden:
		return forbidden()
	}
	if id, found := strings.CutPrefix(path, sessionsURI+"/"); found {
		return s.sessionAnswer(r.Method, id, c)
	}
	for _, sys := range s.systems {
		rest, found := strings.CutPrefix(path, sys.uri())
		switch {
		case !found || rest != "" && rest[0] != '/':
		case rest == "" && read:
			return s.getSystem(sys, f, now)
		case rest == "" && r.Method == http.MethodPatch:
			return s.patchSystem(sys, body, request{c, r, f, now})
		case rest == "/ResetActionInfo" && read && s.cfg.ActionInfo:
			return s.actionInfo(sys)
		case rest == resetPath && r.Method == http.MethodPost:
			return s.reset(sys, body, request{c, r, f, now})
		case rest == "" || rest == resetPath:
			return notAllowed()
		}
	}
	if !read {
		return notFound()
	}
	return s.get(path)
}

func (s *Server) serviceRoot() answer {
	return answer{status: http.StatusOK, body: resource(root+"/", "#ServiceRoot.v1_5_0.ServiceRoot", "RootService", "Root Service", map[string]any{
		"RedfishVersion": "1.8.0", "UUID": "00000000-0000-0000-0000-000000000000", "Vendor": "Holdfast", "Product": "simulated Redfish service",
		"Systems": link(systemsURI), "Managers": link(managersURI), "Chassis": link(chassisURI), "Tasks": link(root + "/TaskService"),
		"SessionService": link(root + "/SessionService"), "Links": map[string]any{"Sessions": link(sessionsURI)},
	})}
}

// get answers the plain reads.
func (s *Server) get(path string) answer {
	var systems, sessions, tasks []string
	for _, sys := range s.systems {
		systems = append(systems, sys.uri())
	}
	for _, o := range s.sessions {
		sessions = append(sessions, o.uri())
	}
	for _, t := range s.tasks {
		tasks = append(tasks, t.uri())
	}
	enabled := map[string]any{"State": "Enabled", "Health": "OK"}
	switch path {
	case systemsURI:
		return collection(path, "ComputerSystemCollection", "Computer System Collection", systems...)
	case managersURI:
		return collection(path, "ManagerCollection", "Manager Collection", managersURI+"/BMC")
	case managersURI + "/BMC":
		var managed []any
		for _, uri := range systems {
			managed = append(managed, link(uri))
		}
		return answer{status: http.StatusOK, body: resource(path, "#Manager.v1_5_0.Manager", "BMC", "Manager", map[string]any{
			"ManagerType": "BMC", "PowerState": "On", "Status": enabled, "FirmwareVersion": "1.0",
			"Links": map[string]any{"ManagerForServers": managed, "ManagerForChassis": []any{link(chassisURI + "/1")}},
		})}
	case chassisURI:
		return collection(path, "ChassisCollection", "Chassis Collection", chassisURI+"/1")
	case chassisURI + "/1":
		return answer{status: http.StatusOK, body: resource(path, "#Chassis.v1_9_0.Chassis", "1", "Chassis", map[string]any{"ChassisType": "RackMount", "Status": enabled})}
	case root + "/SessionService":
		return answer{status: http.StatusOK, body: resource(path, "#SessionService.v1_1_0.SessionService", "SessionService", "Session Service", map[string]any{
			"ServiceEnabled": true, "SessionTimeout": int(s.cfg.SessionTimeout / time.Second), "Sessions": link(sessionsURI), "Status": enabled,
		})}
	case sessionsURI:
		return collection(path, "SessionCollection", "Session Collection", sessions...)
	case root + "/TaskService":
		return answer{status: http.StatusOK, body: resource(path, "#TaskService.v1_1_0.TaskService", "TaskService", "Task Service", map[string]any{"ServiceEnabled": true, "Tasks": link(tasksURI)})}
	case tasksURI:
		return collection(path, "TaskCollection", "Task Collection", tasks...)
	}
	return s.getTask(path)
}

func (s *Server) getSystem(sys *system, f Faults, now time.Time) answer {
	if s.spend(func(f *Faults) *int { return &f.BusyReads }) {
		return busy(http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", "The service is temporarily unavailable. Retry in 3 seconds.")
	}
	uuid := sys.UUID
	if f.OtherUUID {
		uuid = "ffffffff-0000-0000-0000-000000000000"
	}
	action := map[string]any{"target": sys.uri() + resetPath}
	if s.cfg.ActionInfo {
		action["@Redfish.ActionInfo"] = sys.uri() + "/ResetActionInfo"
	} else {
		action["ResetType@Redfish.AllowableValues"] = s.cfg.ResetTypes
	}
	body := resource(sys.uri(), "#ComputerSystem.v1_10_0.ComputerSystem", sys.ID, "System", map[string]any{
		"SystemType": "Physical", "UUID": uuid, "SerialNumber": sys.Serial, "Manufacturer": "Holdfast", "Model": "Simulated",
		"Status":     map[string]any{"State": "Enabled", "Health": "OK"},
		"Boot":       map[string]any{"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"},
		"PowerState": s.powerState(sys, f, now), "Actions": map[string]any{"#ComputerSystem.Reset": action},
		"Links": map[string]any{"ManagedBy": []any{link(managersURI + "/BMC")}, "Chassis": []any{link(chassisURI + "/1")}},
	})
	if s.cfg.LocationIndicator {
		body["LocationIndicatorActive"] = sys.lit != "" && sys.lit != "Off"
	} else {
		body["IndicatorLED"] = cmp.Or(sys.lit, "Off")
	}
	if uuid == "" {
		delete(body, "UUID")
	}
	if f.NoPowerState {
		delete(body, "PowerState")
	}
	return answer{status: http.StatusOK, body: body}
}

// powerState is what the service says, the lies of power.md §6.1 included.
func (s *Server) powerState(sys *system, f Faults, now time.Time) any {
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	switch {
	case f.SayState == "null":
		return nil
	case f.SayState != "":
		return f.SayState
	case s.spend(func(f *Faults) *int { return &f.OffReadings }):
		return "Off"
	case sys.settling(now) && sys.want:
		return "PoweringOn"
	case sys.settling(now):
		return "PoweringOff"
	case sys.Chassis.Power():
		return "On"
	}
	return "Off"
}

func (s *Server) actionInfo(sys *system) answer {
	return answer{status: http.StatusOK, body: resource(sys.uri()+"/ResetActionInfo", "#ActionInfo.v1_1_0.ActionInfo", "ResetActionInfo", "Reset Action Info", map[string]any{
		"Parameters": []any{map[string]any{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": s.cfg.ResetTypes}},
	})}
}

// entry fills what is known of a command before it is judged.
func (c request) entry(sys *system, v bmc.Verb) bmc.Entry {
	on := sys.Chassis.Power()
	return bmc.Entry{BMC: sys.name, Session: c.who.id(), Remote: c.http.RemoteAddr, User: c.who.user.Name, Privilege: c.who.user.Privilege, Verb: v, Before: on, After: on}
}

// request is one change being carried out.
type request struct {
	who  caller
	http *http.Request
	f    Faults
	now  time.Time
}

// finish logs a command with its answer and what the chassis is now.
func (s *Server) finish(sys *system, e bmc.Entry, o bmc.Outcome, a answer) answer {
	e.Outcome, e.Status, e.After = o, a.status, sys.Chassis.Power()
	s.record(e)
	return a
}

func unknownValue(name, value string) answer {
	return failure(http.StatusBadRequest, "ActionParameterNotSupported", fmt.Sprintf("The value %q for the parameter %s is not supported.", value, name))
}
