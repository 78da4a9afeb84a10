-- Sends each chest X-ray that the archive stores to llava-rad. The reports that come back are of the
-- modality SR and stay.
local radiographs = { CR = true, DX = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
   if radiographs[tags['Modality']] then
      SendToModality(instanceId, 'llava-rad')
   end
end
